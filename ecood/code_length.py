"""A universal lossless code in the graph: L(x), what an image takes without a model of its kind.

Pixels are coded one by one, left to right and top to bottom, and channel by channel (green before
red and blue), each given those before it. Nothing is sent but the pixels: all that the code adapts
is computed from pixels that the decoder has already.

1. Linear predictors of a pixel from its neighbours are averaged, each weighted by how well it did
   nearby (Meyer & Tischer 2001, "GLICBAWLS"; Seemann & Tischer 1997, blending by local errors).
2. What the earlier channels were mistaken by at this pixel corrects the prediction, by as much as
   regression in the neighbourhood says. It takes the place of a colour transform.
3. The mistakes nearby set the scale of a mixture: logistic masses of several widths, and the exact
   values of two neighbours. The weights are what each component explained nearby, on top of a
   prior (the expert mixing of Willems, Shtarkov & Tjalkens 1995, locally).

The probability of each pixel sums to one over its 256 values, so an arithmetic coder writes the
image in as many bits as these say, and a rounding. With a prior probability of 2^-10 the values are
independent and uniform instead, so that no image takes more than ten bits beyond 8 bits/dim. Every
step is a shift or an elementwise operation: there is no loop over pixels, and the whole is a pure
function for any device.

`CONSTANTS` are those of a general code: `experiments.fit_code` fits them to scikit-learn's two
sample photographs and to drawn shapes, so that they owe nothing to any benchmark's images.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

__all__ = ["CONSTANTS", "Constants", "code_length", "code_length_map", "pixel_code_lengths"]

# (rows up, columns left) of the pixels that count as near, the nearest first.
NEAR = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 1), (2, -1), (1, 2), (1, -2))
FLOOR = 1e-3  # the share of each pixel's probability that is spread evenly over all values
FIRST_FLOOR = 0.3  # the same for the first pixel, of which nothing is known
UNIFORM = 2.0**-10  # the prior probability of an image of independent, uniform values


class Constants(NamedTuple):
    """What the code does not adapt; positive numbers but `slope`.

    Attributes:
      trust: [6], of each predictor before it has been tried.
      error: [6], how much the squared error of each near pixel counts for a predictor.
      error_prior: squared grey levels, added to a predictor's errors.
      regression: [10], how much each near pixel counts in the regression on earlier channels.
      slope: [3], the regression expected of the second channel on the first, of later ones on the
        one before, and on the one before that.
      slope_prior: squared grey levels, the weight of `slope`.
      activity: [10], how much the error of each near pixel counts for the scale.
      gradient: how much the mean difference of neighbours counts for it.
      disagreement: how much the range of the predictions counts for it.
      channel: how much the error of the channel before, at this pixel, counts for it.
      least_scale: grey levels.
      widths: [3], the logistic components' scales.
      prior: [2, 5], the components' weights in the first channel and in later ones.
      explained: [4], how much it counts what a component explained of each near pixel.
      channel_explained: the same for the channel before, at this pixel.
    """

    trust: ArrayLike
    error: ArrayLike
    error_prior: ArrayLike
    regression: ArrayLike
    slope: ArrayLike
    slope_prior: ArrayLike
    activity: ArrayLike
    gradient: ArrayLike
    disagreement: ArrayLike
    channel: ArrayLike
    least_scale: ArrayLike
    widths: ArrayLike
    prior: ArrayLike
    explained: ArrayLike
    channel_explained: ArrayLike


CONSTANTS = Constants(
    trust=(1.1732, 0.2722, 0.8942, 2.3401, 1.095, 1.1814),
    error=(2.4631, 1.7061, 1.8429, 0.8637, 0.8246, 0.5539),
    error_prior=0.7776,
    regression=(1.5292, 1.4405, 0.8792, 1.567, 0.8477, 0.7754, 0.4689, 0.6482, 0.4663, 0.7817),
    slope=(0.362, 0.1716, 0.4929),
    slope_prior=17.7608,
    activity=(0.3517, 0.2566, 0.0111, 0.253, 0.2099, 0.1517, 0.0017, 0.0778, 0.0016, 0.1798),
    gradient=0.0812,
    disagreement=0.021,
    channel=0.2246,
    least_scale=0.0557,
    widths=(0.2391, 0.5057, 1.7306),
    prior=((0.0974, 0.1759, 0.0709, 0.2224, 0.2241), (1.427, 0.6487, 0.0323, 0.0219, 0.0219)),
    explained=(5.0354, 5.3937, 3.9237, 3.2945),
    channel_explained=1.9628,
)


@jax.jit
def code_length(images: jax.Array) -> jax.Array:
    """L(x), the length of each image in the universal code.

    Args:
      images: uint8 [B, H, W, C], of any size and number of channels.

    Returns:
      Bits per dimension, float32 [B], at most 8 + 10 / D. Without a header: the size of the image
      is known.
    """
    return jnp.mean(code_length_map(images), axis=(1, 2))


def code_length_map(images: jax.Array) -> jax.Array:
    """Where the bits are: bits/dim at each pixel, float32 [B, H, W]; their mean is `code_length`.

    They are those of `pixel_code_lengths`, less what the uniform alternative saves, which is shared
    out evenly.
    """
    bits = pixel_code_lengths(images)
    size = bits[0].size
    adaptive = jnp.sum(bits, axis=(1, 2, 3), keepdims=True)
    uniform = jnp.float32(8 * size - math.log2(UNIFORM))
    length = -jnp.logaddexp2(math.log2(1 - UNIFORM) - adaptive, -uniform)
    return jnp.mean(bits + (length - adaptive) / size, axis=-1)


def pixel_code_lengths(images: jax.Array, constants: Constants = CONSTANTS) -> jax.Array:
    """The bits that each pixel takes in the adaptive code, given the pixels before it.

    Args:
      images: uint8 [B, H, W, C].
      constants: of the code.

    Returns:
      float32 [B, H, W, C], at most 18 each.
    """
    order = list(range(images.shape[-1]))
    if len(order) >= 3:
        order[:2] = 1, 0  # green tells most of the others
    planes = images.transpose(3, 1, 2, 0)[jnp.array(order)].astype(jnp.float32)
    bits = _bits(planes, jax.tree.map(_single, constants))
    return bits[jnp.argsort(jnp.array(order))].transpose(3, 1, 2, 0)


def _single(number: ArrayLike) -> ArrayLike:
    """As float32, whatever x64 is; what is traced stays."""
    return number if isinstance(number, jax.Array) else np.float32(number)


def _bits(y: jax.Array, k: Constants) -> jax.Array:
    """Bits of each pixel of y, float32 [C, H, W, B], the channels in the order of coding.

    Batch last: a neighbour is then a whole row of memory further on.
    """
    channels, height, width, _ = y.shape
    row = jnp.arange(height)[None, :, None, None]
    column = jnp.arange(width)[None, None, :, None]
    north, west = _shifted(y, 1, 0), _shifted(y, 0, 1)
    north, west = jnp.where(row == 0, west, north), jnp.where(column == 0, north, west)
    north_west = jnp.where((row == 0) | (column == 0), west, _shifted(y, 1, 1))
    north_west = jnp.where((row > 0) & (column == 0), north, north_west)
    north_east = jnp.where((row == 0) | (column == width - 1), north, _shifted(y, 1, -1))
    west_west = jnp.where(column < 2, west, _shifted(y, 0, 2))
    north_north = jnp.where(row < 2, north, _shifted(y, 2, 0))

    predictions = (
        west,
        north,
        north + west - north_west,
        (north + west) / 2 + (north_east - north_west) / 4,
        2 * west - west_west,
        2 * north - north_north,
    )
    errors = (jnp.sqrt(_near((y - p) ** 2, k.error) + k.error_prior) for p in predictions)
    weights = [t / (e * jnp.sqrt(e)) for t, e in zip(k.trust, errors, strict=True)]
    mean = sum(w * p for w, p in zip(weights, predictions, strict=True)) / sum(weights)
    lowest = functools.reduce(jnp.minimum, predictions)
    highest = functools.reduce(jnp.maximum, predictions)
    mean = mean + _told_by_channels(y - mean, k)

    error = jnp.abs(y - mean)
    gradient = abs(north - north_west) + abs(west - north_west) + abs(north_east - north)
    spread = k.gradient * gradient / 3 + k.disagreement * (highest - lowest)
    scale = k.least_scale + _near(error, k.activity) + spread + k.channel * _before(error, 1)
    first_pixel = (row == 0) & (column == 0)
    floor = jnp.where(first_pixel, FIRST_FLOOR, FLOOR)
    first_channel = (jnp.arange(channels) == 0)[:, None, None, None]

    # A loop, not one component after the other: half as many kernels to compile.
    widths, same = jnp.asarray(k.widths, jnp.float32), [y == west, y == north]
    logistic = jax.lax.map(lambda width: _logistic_mass(y, mean, scale * width), widths)
    explained = jnp.concatenate([logistic, jnp.stack(same).astype(jnp.float32)])
    masses = explained * (1 - floor)[None] + floor[None] / 256
    of_first, of_later = (jnp.asarray(shares, jnp.float32) for shares in k.prior)

    def prior(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.where(first_channel, *pair)

    total = sum(prior(pair) * mass for *pair, mass in zip(of_first, of_later, masses, strict=True))

    def weigh(sums: tuple[jax.Array, jax.Array], component: tuple[jax.Array, ...]):
        *pair, mass = component
        share = prior(pair) * mass / total
        weight = prior(pair) + _near(share, k.explained)
        weight += k.channel_explained * _before(share, 1)
        return (sums[0] + weight * mass, sums[1] + weight), None

    start = jnp.zeros_like(y), jnp.zeros_like(y)
    (mixed, weights), _ = jax.lax.scan(weigh, start, (of_first, of_later, masses))
    return -jnp.log2(mixed / weights)


def _told_by_channels(error: jax.Array, k: Constants) -> jax.Array:
    """What the errors of the two channels before, at the same pixel, say of this one's error.

    Two steps of Gram and Schmidt: regression on the channel before the last one, then of what is
    left on what that channel does not say of the last.
    """
    if len(error) == 1:
        return jnp.zeros_like(error)

    def regression(of: jax.Array, on: jax.Array, square: jax.Array, slope: ArrayLike) -> jax.Array:
        product = _near(of * on, k.regression) + k.slope_prior * slope
        return on * product / (square + k.slope_prior)

    square = _near(error * error, k.regression)
    second = (jnp.arange(len(error)) == 1)[:, None, None, None]
    slope = jnp.where(second, k.slope[0], k.slope[1])
    far = regression(error, _before(error, 2), _before(square, 2), k.slope[2])
    innovation = error - regression(error, _before(error, 1), _before(square, 1), slope)
    square = _near(innovation * innovation, k.regression)
    near = regression(error - far, _before(innovation, 1), _before(square, 1), slope)
    return far + near


def _logistic_mass(y: jax.Array, mean: jax.Array, scale: jax.Array) -> jax.Array:
    """The mass of a logistic distribution on y +- 1/2; all beyond 0 and 255 belongs to them."""
    above = jnp.where(y == 255, jnp.inf, (y + 0.5 - mean) / scale)
    below = jnp.where(y == 0, -jnp.inf, (y - 0.5 - mean) / scale)
    mirrored = above + below > 0  # the difference of two small numbers, not of two near 1
    above, below = jnp.where(mirrored, -below, above), jnp.where(mirrored, -above, below)
    return jax.nn.sigmoid(above) - jax.nn.sigmoid(below)


def _near(values: jax.Array, weights: ArrayLike) -> jax.Array:
    """The weighted sum of the values at the near pixels, all coded already; 0 outside the image."""
    _, height, width, _ = values.shape
    padded = jnp.pad(values, [(0, 0), (2, 0), (2, 2), (0, 0)])
    return sum(
        w * padded[:, 2 - up : 2 - up + height, 2 - left : 2 - left + width]
        for w, (up, left) in zip(weights, NEAR, strict=False)
    )


def _shifted(values: jax.Array, up: int, left: int) -> jax.Array:
    """The values of the pixels `up` rows above and `left` columns to the left, or 0."""
    _, height, width, _ = values.shape
    padded = jnp.pad(values, [(0, 0), (up, 0), (max(left, 0), max(-left, 0)), (0, 0)])
    start = max(-left, 0)
    return padded[:, :height, start : start + width]


def _before(values: jax.Array, channels: int) -> jax.Array:
    """The values of the channel coded so many before, 0 for the first ones."""
    return jnp.pad(values, [(channels, 0), (0, 0), (0, 0), (0, 0)])[: len(values)]
