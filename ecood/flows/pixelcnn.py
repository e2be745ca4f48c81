"""PixelCNN++, an autoregressive model, as a density of real-valued pixels."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.convolution import Taps, batch_first, batch_last, shifted_conv
from ecood.flows.layers import check_sides, check_sizes

__all__ = ["LogisticMixture", "PixelCNN", "log_density"]

BIN = 1.0 / 256.0  # w, the width of a grey level where pixels are in [0, 1)
LOG_SCALES = (-8.0, 8.0)  # of a logistic, in the same unit; the least is a twelfth of a grey level

# Where a position looks: (rows down, columns right).
ABOVE = tuple((i, j) for i in (-2, -1) for j in (-1, 0, 1))
ABOVE_AND_LEFT = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
DOWN = tuple((i, j) for i in (-1, 0) for j in (-1, 0, 1))
DOWN_RIGHT = tuple((i, j) for i in (-1, 0) for j in (-1, 0))
HERE = ((0, 0),)


class LogisticMixture(NamedTuple):
    """K components at each pixel: one weight for all channels, the channels' logistics.

    A channel's mean is `mean` plus `coefficients` times the pixel's earlier channels.
    """

    log_weight: jax.Array  # [..., K]
    mean: jax.Array  # [..., K, C]
    log_scale: jax.Array  # [..., K, C]
    coefficients: jax.Array  # [..., K, C, C], of channel c in the columns before c; others are 0


def log_density(mixture: LogisticMixture, x: jax.Array) -> jax.Array:
    """The log-density of pixels x [..., C] in nats, [...]: of the mixture plus U(-w/2, w/2).

    That is the mass of a bin of width w around x, divided by w, F(x + w/2) - F(x - w/2) over w:
    on integer pixels the discrete likelihood of the paper, without its cases for black and white.
    With a = (x + w/2 - mean) / s and b = a - w/s, sigmoid(a) - sigmoid(b) is written as
    sigmoid(a) sigmoid(-b) (1 - exp(-w/s)), which underflows nowhere.
    """
    mean = mixture.mean + jnp.sum(mixture.coefficients * x[..., None, None, :], axis=-1)
    z, width = (x[..., None, :] - mean) * jnp.exp(-mixture.log_scale), jnp.exp(-mixture.log_scale)
    half = 0.5 * BIN * width
    log_mass = nn.log_sigmoid(z + half) + nn.log_sigmoid(half - z) + jnp.log(-jnp.expm1(-2 * half))
    each = mixture.log_weight + jnp.sum(log_mass - math.log(BIN), axis=-1)
    return jax.nn.logsumexp(each, axis=-1)


class Conv(nn.Module):
    """A convolution that sees its taps alone, [C, H, W, B] -> float32 [features, H, W, B]."""

    features: int
    taps: Taps
    dtype: Any
    scale: float = 1.0  # of the kernel's start, in LeCun's standard deviations

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = len(self.taps) * x.shape[0]
        init = nn.initializers.normal(self.scale / math.sqrt(fan_in))
        shape = (len(self.taps), x.shape[0], self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = jax.lax.optimization_barrier(x.astype(self.dtype))  # else computed once a tap
        return shifted_conv(x, kernel.astype(self.dtype), bias, self.taps)


class GatedResnet(nn.Module):
    """x + a sigmoid(b), [a, b] = conv(concat_elu(conv(concat_elu(x)) + 1x1 of what else is seen)).

    concat_elu is the ELU of [x, -x].
    """

    taps: Taps
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *others: jax.Array) -> jax.Array:
        width = len(x)
        h = Conv(width, self.taps, self.dtype)(_concat_elu(x))
        for other in others:
            h += Conv(width, HERE, self.dtype)(_concat_elu(other))
        a, b = jnp.split(Conv(2 * width, self.taps, self.dtype, 0.1)(_concat_elu(h)), 2)
        return x + a * nn.sigmoid(b)


def _concat_elu(x: jax.Array) -> jax.Array:
    return nn.elu(jnp.concatenate([x, -x]))


class Network(nn.Module):
    """What the rows above a pixel, and what is left in its row, tell of it.

    Two streams: `down` knows the rows above, `right` these and the left, through `down`.
    """

    features: int
    depth: int
    levels: int
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[C, H, W, B] -> float32 [features, H, W, B]."""
        x = jnp.concatenate([x, jnp.ones_like(x[:1])])  # ones tell the image from what is outside
        down = Conv(self.width, ABOVE, self.dtype)(x)
        right = Conv(self.width, ABOVE_AND_LEFT, self.dtype)(x)
        seen = []
        for level in range(self.levels):
            if level:
                down = Conv(self.width, DOWN, self.dtype)(down)[:, ::2, ::2]
                right = Conv(self.width, DOWN_RIGHT, self.dtype)(right)[:, ::2, ::2]
            for _ in range(self.depth):
                down = GatedResnet(DOWN, self.dtype)(down)
                right = GatedResnet(DOWN_RIGHT, self.dtype)(right, down)
                seen.append((down, right))
        for level in range(self.levels):
            if level:
                down = _enlarge(Conv(4 * self.width, HERE, self.dtype)(down))
                right = _enlarge(Conv(4 * self.width, HERE, self.dtype)(right))
            for _ in range(self.depth):
                down_seen, right_seen = seen.pop()
                down = GatedResnet(DOWN, self.dtype)(down, down_seen)
                right = GatedResnet(DOWN_RIGHT, self.dtype)(right, down, right_seen)
        return Conv(self.features, HERE, self.dtype, 0.0)(nn.elu(right))


def _enlarge(x: jax.Array) -> jax.Array:
    """[4C, H, W, B] -> [C, 2H, 2W, B]."""
    c, h, w, b = x.shape
    x = x.reshape(c // 4, 2, 2, h, w, b).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(c // 4, 2 * h, 2 * w, b)


class PixelCNN(nn.Module):
    """PixelCNN++ for images: `levels` resolutions, there and back, `depth` gated resnets each.

    A mixture of logistics at each pixel is given what the rows above and the left of it tell. As
    a density of real pixels it takes them as they are, dequantised and perhaps perturbed, into
    its context; `log_density` and docs/densities.md say why it is one. There is no latent.

    Of the paper's network this has the two streams, gated resnets and shortcuts; it starts from
    small kernels in the place of weight normalisation, and near the uniform density; it enlarges
    by a product to 2 x 2 pixels where the paper has a transposed convolution, and has no dropout.
    Means are told in units of their scale, from fixed starts between black and white: else narrow
    logistics, such as black pixels need, have gradients of thousands.

    Attributes:
      image_shape: (H, W, C); H and W divisible by 2**(levels - 1).
      depth: gated resnets of a resolution, in each stream, there and again back; the paper's is 5.
      levels: resolutions, each half of the one before; the paper's is 3.
      width: channels of a stream; the paper's is 160.
      mixtures: components; the paper's is 10.
      dtype: of the convolutions; parameters and the mixture are float32.

    Source: Salimans et al. 2017, "PixelCNN++: Improving the PixelCNN with Discretized Logistic
    Mixture Likelihood and Other Modifications".
    """

    image_shape: tuple[int, int, int]
    depth: int = 2
    levels: int = 3
    width: int = 32
    mixtures: int = 5
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_sizes(self, "depth", "levels", "width", "mixtures")
        check_sides(self, 2 ** (self.levels - 1))
        super().__post_init__()

    def setup(self):  # noqa: D102
        c = self.image_shape[-1]
        features = self.mixtures * (1 + 2 * c + c * (c - 1) // 2)
        self.network = Network(features, self.depth, self.levels, self.width, self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`log_prob`."""
        return self.log_prob(x)

    def log_prob(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float32 [B, H, W, C], dequantised -> log-density in nats [B]."""
        del train  # exact in both modes
        return jnp.sum(self.log_prob_map(x), axis=(1, 2))

    def log_prob_map(self, x: jax.Array) -> jax.Array:
        """Dequantised [B, H, W, C] -> nats of each pixel given the earlier ones, [B, H, W]."""
        return log_density(self.mixture(x), x)

    def mixture(self, x: jax.Array) -> LogisticMixture:
        """Of each pixel of x [B, H, W, C], given those above and left of it."""
        (_, _, c), k = self.image_shape, self.mixtures
        told = batch_first(self.network(batch_last(2 * x - 1))).astype(jnp.float32)
        told = told.reshape(*x.shape[:3], k, told.shape[-1] // k)
        weight, mean, scale, coefficients = jnp.split(told, [1, 1 + c, 1 + 2 * c], axis=-1)
        # Where means start, black to white.
        even = jnp.linspace(0.5 * BIN, 1 - 0.5 * BIN, k, dtype=jnp.float32)
        log_scale = jnp.clip(scale - math.log(2 * k), *LOG_SCALES)
        rows, columns = jnp.tril_indices(c, -1)
        below = jnp.zeros((*told.shape[:-1], c, c), jnp.float32)
        return LogisticMixture(
            nn.log_softmax(weight[..., 0]),
            even.reshape(1, 1, 1, k, 1) + jnp.exp(log_scale) * mean,
            log_scale,
            below.at[..., rows, columns].set(jnp.tanh(coefficients)),
        )

    def sample(self, key: jax.Array, n: int, temperature: float = 1.0) -> jax.Array:
        """Draws n images, float32 [n, H, W, C], pixel by pixel: H * W passes.

        The temperature scales the logistics.
        """
        h, w, c = self.image_shape
        density, variables = self.unbind()

        def draw(i: jax.Array, x: jax.Array) -> jax.Array:
            row, column = i // w, i % w
            mixture = density.apply(variables, x, method="mixture")
            mixture = jax.tree.map(lambda leaf: leaf[:, row, column], mixture)
            keys = jax.random.split(jax.random.fold_in(key, i), 3)
            chosen = jax.random.categorical(keys[0], mixture.log_weight)[:, None]
            mean, log_scale, coefficients = (
                jnp.take_along_axis(leaf, chosen.reshape(n, *(1,) * (leaf.ndim - 1)), axis=1)[:, 0]
                for leaf in mixture[1:]
            )
            noise = (
                temperature * jnp.exp(log_scale) * jax.random.logistic(keys[1], (n, c), jnp.float32)
            )
            noise += BIN * jax.random.uniform(keys[2], (n, c), jnp.float32, -0.5, 0.5)
            pixel = mean + noise
            for channel in range(1, c):
                earlier = jnp.sum(coefficients[:, channel] * pixel, axis=-1)
                pixel = pixel.at[:, channel].add(earlier)
            return x.at[:, row, column].set(pixel)

        return jax.lax.fori_loop(0, h * w, draw, jnp.zeros((n, h, w, c), jnp.float32))
