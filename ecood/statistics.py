"""What is measured of an image: its bits under a density, its similarity to the bank.

SPEM and the baselines are combinations of these statistics. Bits are per dimension, so
that they read alike for all image sizes, and guarded: a density can explode far from
its data (1e15 bits/dim), and beyond 8 bits/dim, what an 8-bit image costs under the
uniform density, only the logarithm counts (`guard`). Everywhere `key` is the run's PRNG
key, and images are uint8 [B, H, W, C].
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ecood import memory
from ecood.encoders import Encoder
from ecood.errors import InputError, check_whole
from ecood.flows import Flow, bits_per_dim
from ecood.images import content_keys, dequantise
from ecood.perturb import noise_of, perturb
from ecood.words import number_of

__all__ = [
    "LARGEST",
    "UNIFORM_BITS",
    "Draws",
    "Reference",
    "bits",
    "bits_as_it_is_and_perturbed",
    "broken",
    "check_latent",
    "dequantised",
    "embedded",
    "finite",
    "guard",
    "guarded_ratio",
    "last_level_bits",
    "latent_bits",
    "of_id_images",
    "perturbed",
    "perturbed_bits",
    "reference",
    "signed_guard",
    "similarity",
    "standardise",
]

UNIFORM_BITS = 8.0  # bits/dim of any 8-bit image under the uniform density
LARGEST = float(np.finfo(np.float32).max)
BROKEN = 1e30  # bits/dim; below the largest float, as a mean over draws may be
PIXELS, NOISE = 0, 1  # what an image's randomness is for
RESOLUTION = 1e-4  # of a statistic: what differs less is rounding


@flax.struct.dataclass
class Draws:
    """How many perturbations of an image its perturbed bits are averaged over; static.

    Each has a dequantisation of its own. Antithetic ones come in pairs with opposite
    noise; `count` is then even.
    """

    count: int = flax.struct.field(pytree_node=False, default=1)
    antithetic: bool = flax.struct.field(pytree_node=False, default=False)

    def __post_init__(self) -> None:
        """Refuses a number of draws that cannot be made."""
        check_whole("draws", self.count)
        if self.antithetic and self.count % 2:
            raise InputError(f"draws is {self.count}; expected an even number if antithetic.")


def bits(flow: Flow, key: jax.Array, images: jax.Array) -> jax.Array:
    """b(x) = -log p(x) of dequantised images in bits/dim, guarded, float32 [B]."""
    return _bits(flow, key, dequantised(key, images))


def _bits(flow: Flow, key: jax.Array, x: jax.Array) -> jax.Array:
    return guard(bits_per_dim(flow.log_prob(key, x), x.shape[1:]))


def perturbed_bits(
    flow: Flow, draws: Draws, key: jax.Array, at: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """b'(x) = -E_z[log p(x + sigma z)] in bits/dim, guarded draw by draw, float32 [B].

    `at` is the images and their noise scales sigma [B].
    """
    first = _bits(flow, key, perturbed(key, *at, 0, draws.antithetic))
    return _mean_over_draws(flow, draws, key, at, first)


def bits_as_it_is_and_perturbed(
    flow: Flow, draws: Draws, key: jax.Array, at: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """`bits` and `perturbed_bits` by one pass of the flow; further draws take one each.

    It compiles in less time than two passes, and an accelerator, for which a batch is
    small, runs it in less. Image and perturbed image lie side by side, so that devices
    which share the rows of a batch need nothing of each other.
    """
    images, scales = at
    pair = _drawn(key, images, scales, 0, draws.antithetic)
    rows = jnp.stack(pair, axis=1).reshape(-1, *images.shape[1:])
    found = _bits(flow, key, rows).reshape(-1, 2)
    return found[:, 0], _mean_over_draws(flow, draws, key, at, found[:, 1])


def _mean_over_draws(
    flow: Flow, draws: Draws, key: jax.Array, at: tuple[jax.Array, jax.Array], first: jax.Array
) -> jax.Array:
    if draws.count == 1:
        return first

    def one_draw(index: jax.Array) -> jax.Array:
        return _bits(flow, key, perturbed(key, *at, index, draws.antithetic))

    further = jax.lax.map(one_draw, jnp.arange(1, draws.count))
    mean = jnp.mean(jnp.concatenate([first[None], further]), axis=0)
    return jnp.clip(mean, -LARGEST, LARGEST)  # two of the largest floats have no finite sum


def perturbed(
    key: jax.Array,
    images: jax.Array,
    noise_scales: jax.Array,
    index: jax.Array | int = 0,
    antithetic: bool = False,
) -> jax.Array:
    """What the density is given: the index-th dequantised and perturbed version of each image.

    That is float32 [B, H, W, C], in [0, 1) where the noise scale, sigma [B] in units of
    the pixel range, is 0. Draws count from 0; antithetic ones come in pairs with
    opposite noise.
    """
    return _drawn(key, images, noise_scales, index, antithetic)[1]


def _drawn(
    key: jax.Array,
    images: jax.Array,
    noise_scales: jax.Array,
    index: jax.Array | int,
    antithetic: bool,
) -> tuple[jax.Array, jax.Array]:
    """The index-th dequantised version of each image, and the same perturbed."""
    number, sign = noise_of(index, antithetic)
    kind = jnp.array([[PIXELS], [NOISE]])
    pixels, noise = content_keys(key, images, kind, jnp.stack([index, number])[:, None])
    x = jax.vmap(dequantise)(pixels, images)
    return x, jax.vmap(perturb)(noise, x, sign * noise_scales)


@jax.jit
def dequantised(key: jax.Array, images: jax.Array) -> jax.Array:
    """uint8 [B, H, W, C] to float32 in [0, 1), the image whose cost `bits` is."""
    return jax.vmap(dequantise)(content_keys(key, images, PIXELS, 0), images)


def last_level_bits(flow: Flow, key: jax.Array, images: jax.Array) -> jax.Array:
    """-log of what the flow's last level adds to its density, in bits/dim, guarded, float32 [B]."""
    terms = flow.log_prob_of_levels(key, dequantised(key, images))
    return signed_guard(-terms[:, -1] / (math.prod(images.shape[1:]) * math.log(2.0)))


def latent_bits(
    flow: Flow, key: jax.Array, images: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-log p(x), -log p(z) and log|det dz/dx|, log p(x) = log p(z) + log|det dz/dx|.

    In bits/dim, guarded, float32 [B] each. An InputError if the flow has no latent.
    """
    x, shape = dequantised(key, images), images.shape[1:]
    log_prob = flow.log_prob(key, x)
    _, log_det = flow.forward_and_log_det(key, x)
    nats = math.prod(shape) * math.log(2.0)
    return (
        guard(bits_per_dim(log_prob, shape)),
        signed_guard((log_det - log_prob) / nats),
        signed_guard(log_det / nats),
    )


def check_latent(flow: Flow, name: str) -> None:
    """Refuses a flow without a latent for a detector, `name`, that looks at it."""
    if not flow.has_latent:
        raise InputError(
            f"{name} looks at the flow's latent, and this flow has no forward_and_log_det; give "
            "it one, or choose a detector that needs log_prob only."
        )


def embedded(encoder: Encoder, images: jax.Array) -> jax.Array:
    """e(x), the embeddings at norm 1, float32 [B, d]."""
    return memory.unit_norm(encoder.embed(images).astype(jnp.float32))


def similarity(
    encoder: Encoder, bank: memory.Bank, images: jax.Array, neighbours: int = 1
) -> jax.Array:
    """s(x), the mean cosine similarity to the bank's most similar items, float32 [B].

    They are as many as `neighbours`, or the whole bank if it has fewer.
    """
    if neighbours == 1:
        return memory.nearest_similarity(bank, embedded(encoder, images))
    found = memory.nearest_similarities(bank, embedded(encoder, images), neighbours)
    return jnp.mean(found, axis=1)


def guard(bits: jax.Array) -> jax.Array:
    """Bits b up to 8 bits/dim, 8 + log(1 + b - 8) beyond; NaN counts as the largest float.

    Monotone and smooth, so it changes no ranking of single draws, and keeps their mean finite.
    """
    beyond = UNIFORM_BITS + jnp.log1p(jnp.maximum(bits - UNIFORM_BITS, 0.0))
    return finite(jnp.where(bits > UNIFORM_BITS, beyond, bits))


def signed_guard(values: jax.Array) -> jax.Array:
    """The guard for statistics that may explode in both directions; NaN as by `guard`."""
    return jnp.where(values < 0, -1.0, 1.0) * guard(jnp.abs(values))


def guarded_ratio(bits: jax.Array, of_other: jax.Array) -> jax.Array:
    """bits - of_other, float32 [B], the largest float where either stands for NaN or infinity."""
    lost = broken(bits) | broken(of_other)
    return jnp.where(lost, LARGEST, finite(bits - of_other))


def broken(bits: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Where guarded bits stand for NaN or infinity, bool; of the guard's own none exceeds 97."""
    return abs(bits) > BROKEN


def of_id_images(values: np.ndarray) -> np.ndarray:
    """Statistics of held-out ID images, [N] or [N, K], on which a detector is fitted.

    Raises:
      InputError: if flow or encoder gave NaN or infinity, so that one stands for it.
    """
    rows = np.reshape(values, (len(values), -1))
    if count := int((broken(rows) | ~np.isfinite(rows)).any(axis=1).sum()):
        raise InputError(
            f"flow or encoder give NaN or infinity for {count} of "
            f"{number_of(len(rows), 'held-out in-distribution image')}; check their weights, and "
            "what they take."
        )
    return values


def finite(scores: jax.Array) -> jax.Array:
    """Scores with infinities and NaN at the ends of float32's range: NaN counts as most OOD.

    So it is in wider floats, which are made float32 later on; narrower ones become float32.
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    return jnp.clip(jnp.nan_to_num(scores, nan=LARGEST), -LARGEST, LARGEST)


class Reference(NamedTuple):
    """The medians and interquartile ranges of K statistics of held-out ID images.

    Both are float32 [K]. `reference` measures them; where a `spread` is 0, nothing was measured,
    and the statistic does not count.
    """

    centre: jax.Array
    spread: jax.Array


def reference(rows: Sequence[ArrayLike]) -> Reference:
    """The reference of held-out ID images, from K statistics [N] of theirs.

    Medians and quartiles are indifferent to the few images whose density explodes. Of a
    statistic in which ID images are all alike, whatever differs is far off.
    """
    rows = np.asarray(rows, np.float64)
    low, middle, high = np.quantile(rows, [0.25, 0.5, 0.75], axis=1)
    spread = np.maximum(high - low, RESOLUTION)
    return Reference(jnp.asarray(middle, jnp.float32), jnp.asarray(spread, jnp.float32))


def standardise(rows: Sequence[jax.Array], reference: Reference) -> list[jax.Array]:
    """K statistics [B] less their medians, in interquartile ranges."""
    table = jnp.stack(list(rows), axis=-1)
    varies = reference.spread > 0
    z = (table - reference.centre[None]) / jnp.where(varies, reference.spread, 1.0)[None]
    z = jnp.where(varies[None], z, 0.0)
    return [z[:, k] for k in range(z.shape[1])]
