"""How SPEM reads its three statistics: bits, entropy gain, similarity.

For an image x with noise scale sigma(x) = lambda (1 - s(x)), let

    b(x) = -log p(x)  and  b'(x) = -log p(x + sigma(x) z),  both in bits/dim;
    the entropy gain is  b'(x) - b(x).

The paper scores b' = b + gain. But the two terms say different things. b is large for images that
are richer than the in-distribution (ID) ones. The gain is large for images that are both unlike
the memory bank (sigma is large) and smooth (noise costs a smooth image many bits, a rough one
few): just those whose likelihood is misleadingly high. An image is either too rich or too smooth,
so in a sum the one term cancels the other: the paradox is in b, its cure in the gain, and b drags
the cure down. Hence the larger of the two, each measured on the scale of ID images, and with it
how unlike the bank the image is:

    score = max(z_b, z_gain) + z_(-s),

where z_t is t less its median over held-out ID images, in units of their interquartile range.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

__all__ = ["UNIFORM_BITS", "Reference", "combined", "is_telling", "reference"]


UNIFORM_BITS = 8.0  # bits/dim of any 8-bit image under the uniform density


class Reference(NamedTuple):
    """What is usual among held-out ID images, of (bits, gain, -similarity).

    Attributes:
      centre: float32 [3], medians.
      scale: float32 [3], interquartile ranges; 0 for what does not vary, whose z is then 0
        (the gain without noise).
    """

    centre: jax.Array
    scale: jax.Array


def reference(bits: ArrayLike, perturbed_bits: ArrayLike, similarity: ArrayLike) -> Reference:
    """The reference of held-out ID images.

    Medians and quartiles are indifferent to the few images whose perturbed density explodes.

    Args:
      bits: b [N], bits/dim of the images.
      perturbed_bits: b' [N], of the same images perturbed.
      similarity: s [N].
    """
    bits, perturbed = np.asarray(bits, np.float64), np.asarray(perturbed_bits, np.float64)
    rows = [bits, perturbed - bits, -np.asarray(similarity, np.float64)]
    low, middle, high = np.quantile(rows, [0.25, 0.5, 0.75], axis=1)
    return Reference(jnp.asarray(middle, jnp.float32), jnp.asarray(high - low, jnp.float32))


def is_telling(usual: Reference) -> bool:
    """Whether the gain tells anything at the noise strength of this reference.

    Not where noise takes the typical ID image past what it would cost under the uniform density:
    the flow's density explodes there, and no gain is usual.
    """
    return bool(usual.centre[0] + usual.centre[1] <= UNIFORM_BITS)


def combined(
    bits: jax.Array, perturbed_bits: jax.Array, similarity: jax.Array, usual: Reference
) -> jax.Array:
    """The score max(z_b, z_gain) + z_(-s), float32 [B]; the largest float where it is not finite.

    Args:
      bits: b [B], bits/dim.
      perturbed_bits: b' [B], bits/dim.
      similarity: s [B].
      usual: what is usual among ID images.
    """
    largest = np.finfo(np.float32).max
    bits, perturbed = jnp.asarray(bits), jnp.asarray(perturbed_bits)
    gain = jnp.clip(perturbed - bits, -largest, largest)
    rows = jnp.stack([bits, gain, -jnp.asarray(similarity)], axis=-1)
    varies = usual.scale > 0
    z = (rows - usual.centre[None, :]) / jnp.where(varies, usual.scale, 1.0)[None, :]
    z = jnp.where(varies[None, :], z, 0.0)
    score = jnp.maximum(z[:, 0], z[:, 1]) + z[:, 2]
    return jnp.clip(jnp.nan_to_num(score, nan=largest), -largest, largest)
