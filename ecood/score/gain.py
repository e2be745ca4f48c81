"""The entropy gain: what the perturbation adds to an image's bits, and how much it weighs.

For an image x with noise scale sigma(x) = lambda (1 - s(x)), let

    b(x) = -log p(x)  and  b'(x) = -log p(x + sigma(x) z),  both in bits/dim;
    the gain is  b'(x) - b(x).

The paper scores b' = b + (b' - b). But the two terms say different things. b is large for images
that are richer than the in-distribution (ID) ones. The gain is large for images that are both
unlike the memory bank (sigma is large) and smooth (noise costs a smooth image many bits and a
rough one few): just those whose likelihood is misleadingly high. Their paradox is in b, and its
cure in the gain, which b drags down. So the gain weighs more than once:

    score = b + w (b' - b),   w = 1 + scale of b' / scale of the gain,

with the scales those of held-out ID images. Up to a constant factor, that is the sum of b' and
the gain, each standardised on ID images: neither drowns the other. w = 1 is the paper's score.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

__all__ = ["gain_weight", "gained"]


def gained(bits: jax.Array, perturbed_bits: jax.Array, weight: jax.Array | float) -> jax.Array:
    """The score b + w (b' - b), float32 [B]; where that overflows, the largest float."""
    largest = np.finfo(np.float32).max
    bits, perturbed_bits = jnp.asarray(bits), jnp.asarray(perturbed_bits)
    return jnp.clip(bits + weight * (perturbed_bits - bits), -largest, largest)


def gain_weight(bits: ArrayLike, perturbed_bits: ArrayLike) -> float:
    """The gain's weight w from held-out ID images.

    Args:
      bits: b [N], bits/dim of the images.
      perturbed_bits: b' [N], of the same images perturbed.

    Returns:
      w = 1 + IQR(b') / IQR(b' - b), the interquartile ranges being indifferent to the few images
      whose perturbed density explodes; 1 where the gain does not vary, as without noise.
    """
    bits = np.asarray(bits, np.float64)
    perturbed = np.asarray(perturbed_bits, np.float64)
    spread, of_gain = (
        np.subtract(*np.quantile(values, [0.75, 0.25])) for values in (perturbed, perturbed - bits)
    )
    return float(1 + spread / of_gain) if of_gain > 0 else 1.0
