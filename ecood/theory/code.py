"""What a universal code tells of a density: b - L bounds the divergence, and tests one image.

b is -log2 of the density per dimension, L the length of the same image in any lossless code, both
bits/dim of 8-bit pixels; D is the number of dimensions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ecood.errors import InputError, check_share, check_whole
from ecood.metrics import check_scores
from ecood.statistics import broken
from ecood.words import number_of

__all__ = ["Certificate", "certify_mismatch", "p_value"]


class Certificate(NamedTuple):
    """A lower bound of KL(Q || p), from images of Q alone.

    `excess` is the mean of b - L, an estimate of a lower bound of KL(Q || p) / (D ln 2) in
    bits/dim; `bound` its lower confidence bound: where it is positive, p is not Q's density.
    """

    excess: float
    bound: float


def certify_mismatch(bits: ArrayLike, lengths: ArrayLike, level: float = 0.95) -> Certificate:
    """Whether images come from another law than the density's, by how much at least.

    E_Q[b - L] <= KL(Q || p) / (D ln 2) for every code, so no entropy is estimated. The bound is
    Student's, of the given one-sided level: right for many images, whatever their law.

    Args:
      bits: b of n >= 2 independent images of Q, [n], guarded or not: the guard only lowers numbers,
        and what it puts in the place of NaN or infinity is refused as these are.
      lengths: L of the same images, [n].
      level: between 0 and 1.

    Raises:
      InputError: if there are not two images or more, as many of each, for a level that is none, or
        if a density or a code failed on one of them.

    Source: docs/theory.md, 1.6; Shannon's source coding theorem.
    """
    bits, lengths = check_scores("bits", bits), check_scores("lengths", lengths)
    if len(bits) < 2 or len(bits) != len(lengths):
        raise InputError(
            f"bits is [{len(bits)}] and lengths [{len(lengths)}]; expected [n] both, of the same "
            "two or more images."
        )
    if failed := int(np.sum(broken(bits) | broken(lengths))):
        raise InputError(
            f"bits or lengths hold, for {failed} of {number_of(len(bits), 'image')}, what stands "
            "for NaN or infinity; expected numbers: check the flow's weights."
        )
    level = check_share("level", level, "a number between 0 and 1, such as 0.95")
    excess = bits - lengths
    error = np.std(excess, ddof=1) / np.sqrt(len(excess))
    mean = float(np.mean(excess))
    return Certificate(mean, mean - float(special.stdtrit(len(excess) - 1, level) * error))


def p_value(bits: jax.Array, lengths: jax.Array, dim: int) -> jax.Array:
    """min(1, 2^{-D (b - L)}), a p-value [B] of "this image was drawn from the law P".

    By Kraft's inequality E_P 2^{D (b - L)} <= 1, so by Markov's the p-value is right for every law
    and code, exactly and for one image; 1, no evidence, where bits or length are unknown. Under P,
    mind: for ID images only as far as P is their law.

    Args:
      bits: b = -log2 P(u) / D, [B], P a law of images u of whole numbers. Of a density p that is
        the cells' mass, E_v p((u + v)/256) 256^-D; or PixelCNN's p at one fixed v, the same for
        all images (docs/densities.md). The bits of an image that was dequantised by a v of its own
        are none: their 2^-Db is right in the mean, its inverse is not, and p-values of them may be
        far too small.
      lengths: L of the same images, [B].
      dim: D, a whole number.

    Raises:
      InputError: for a `dim` that is none.

    Source: docs/theory.md, 1.7; Li & Vitányi 2008, section 2.4, for such tests.
    """
    check_whole("dim", dim)
    bits, lengths = jnp.asarray(bits), jnp.asarray(lengths)
    known = jnp.isfinite(bits) & ~broken(bits) & jnp.isfinite(lengths)
    excess = jnp.where(known, bits - lengths, 0.0)
    return jnp.exp2(jnp.minimum(0.0, -dim * excess))
