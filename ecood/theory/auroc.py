"""AUROC from the first two moments of the scores: the link from a gap to a ranking.

Scores are larger for OOD. With the score -log p, the difference of means is the likelihood gap.
Ties count as half.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc
from jax.scipy.stats import norm

__all__ = ["binormal", "isotropic_gaussian", "lower_bound", "moments", "upper_bound"]


def moments(id_scores: jax.Array, ood_scores: jax.Array) -> tuple[jax.Array, ...]:
    """(gap, variance_id, variance_ood), [] each, of scores [n] and [m]: `binormal(*moments)`."""
    gap = jnp.mean(ood_scores) - jnp.mean(id_scores)
    return gap, jnp.var(id_scores), jnp.var(ood_scores)


def binormal(gap: jax.Array, variance_id: jax.Array, variance_ood: jax.Array) -> jax.Array:
    """AUROC if both scores were normal; an approximation otherwise.

    Args:
      gap: mean OOD score minus mean ID score, [].
      variance_id: of the ID scores, [].
      variance_ood: of the OOD scores, [].

    Returns:
      Phi(gap / sqrt(variance_id + variance_ood)), [].
    """
    return norm.cdf(gap / jnp.sqrt(variance_id + variance_ood))


def lower_bound(gap: jax.Array, variance_id: jax.Array, variance_ood: jax.Array) -> jax.Array:
    """A lower bound on the AUROC of independent scores of any distribution with these moments.

    Tight if one variance is 0, hence the best that depends on their sum alone.

    Args:
      gap: mean OOD score minus mean ID score, or a lower bound on it, [].
      variance_id: of the ID scores, or an upper bound, [].
      variance_ood: of the OOD scores, or an upper bound, [].

    Returns:
      gap^2 / (gap^2 + variances) for a positive gap, else 0, [].

    Source: Cantelli's one-sided form of Chebyshev's inequality.
    """
    positive = jnp.maximum(gap, 0.0)
    # Guarded twice, so that neither the value nor the gradient is 0/0 without gap and variance.
    denominator = positive**2 + variance_id + variance_ood
    return jnp.where(gap > 0, positive**2 / jnp.where(gap > 0, denominator, 1.0), 0.0)


def upper_bound(gap: jax.Array, variance_id: jax.Array, variance_ood: jax.Array) -> jax.Array:
    """An upper bound on the AUROC of independent scores: `lower_bound` with roles swapped.

    Args and units as in `lower_bound`; 1 unless the gap is negative.
    """
    return 1.0 - lower_bound(-gap, variance_id, variance_ood)


def isotropic_gaussian(variance_id: jax.Array, variance_ood: jax.Array, dim: int) -> jax.Array:
    """The exact AUROC of the score |x|^2 between N(0, variance_id I) and N(0, variance_ood I).

    Any isotropic Gaussian model's log-likelihood about the common mean ranks in this way.

    Args:
      variance_id: of each coordinate under P (after noise, if any), [].
      variance_ood: the same under Q, [].
      dim: D.

    Returns:
      P(F < variance_ood / variance_id) for F of Fisher's law with (D, D) degrees of freedom, [].
    """
    share = variance_ood / (variance_id + variance_ood)
    return betainc(0.5 * dim, 0.5 * dim, share)
