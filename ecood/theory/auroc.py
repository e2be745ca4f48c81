"""AUROC from the first two moments of the scores: the link from a gap to a ranking.

Scores are larger for OOD, ties count as half. The gap is the mean OOD score minus the
mean ID score, with -log p for a score the likelihood gap. All is [] unless said
otherwise.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

__all__ = [
    "binormal",
    "flagged_beyond",
    "isotropic_gaussian",
    "lower_bound",
    "moments",
    "sum_of_normals",
    "upper_bound",
]

LEGENDRE = (np.stack(np.polynomial.legendre.leggauss(64)) + [[1.0], [0.0]]) / 2  # on [0, 1]
FURTHEST = 12.0  # standard deviations, beyond which a normal law has less than 1e-32
NOTHING = 1e-12  # at and below it a quotient of small numbers is at its limit


def moments(id_scores: jax.Array, ood_scores: jax.Array) -> tuple[jax.Array, ...]:
    """(gap, variance_id, variance_ood), [] each, of scores [n] and [m]: `binormal(*moments)`."""
    gap = jnp.mean(ood_scores) - jnp.mean(id_scores)
    return gap, jnp.var(id_scores), jnp.var(ood_scores)


def binormal(gap: jax.Array, variance_id: jax.Array, variance_ood: jax.Array) -> jax.Array:
    """AUROC if both scores were normal: Phi(gap / sqrt(variance_id + variance_ood))."""
    variance = variance_id + variance_ood
    spread = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    return jnp.where(variance > 0, norm.cdf(gap / spread), jnp.heaviside(gap, 0.5))


def lower_bound(gap: jax.Array, variance_id: jax.Array, variance_ood: jax.Array) -> jax.Array:
    """gap^2 / (gap^2 + variances), a lower bound on any independent scores' AUROC.

    0 unless the gap is positive. It holds for a lower bound on the gap and upper bounds
    on the variances too. Tight if one variance is 0, hence the best that depends on
    their sum alone.

    Source: Cantelli's one-sided form of Chebyshev's inequality.
    """
    positive = jnp.maximum(gap, 0.0)
    # In units of the larger of gap and spread, of which it does not depend, nothing overflows; and
    # guarded, so that neither the value nor the gradient is 0/0 without gap and variance.
    spread = jnp.sqrt(variance_id) + jnp.sqrt(variance_ood)
    unit = jax.lax.stop_gradient(jnp.where(gap > 0, jnp.maximum(positive, spread), 1.0))
    square = (positive / unit) ** 2
    denominator = square + variance_id / unit / unit + variance_ood / unit / unit
    return jnp.where(gap > 0, square / jnp.where(gap > 0, denominator, 1.0), 0.0)


def upper_bound(gap: jax.Array, variance_id: jax.Array, variance_ood: jax.Array) -> jax.Array:
    """An upper bound on the AUROC, 1 unless the gap is negative; see `lower_bound`."""
    return 1.0 - lower_bound(-gap, variance_id, variance_ood)


def isotropic_gaussian(variance_id: jax.Array, variance_ood: jax.Array, dim: int) -> jax.Array:
    """The exact AUROC of |x|^2, x from N(0, variance_id I) and N(0, variance_ood I).

    It is P(F < variance_ood / variance_id), F of Fisher's law with (dim, dim) degrees
    of freedom. Any isotropic Gaussian model's log-likelihood about the common mean
    ranks in this way.

    With t = (variance_ood - variance_id) / (variance_ood + variance_id) it is 1/2 plus a multiple
    of the integral of e^{-s^2/2} sqrt(w / (1 - e^-w)), w = s^2 / dim, from 0 to the s at which
    1 - e^-w = t^2: smooth, so that a few nodes are exact to rounding, in float32 for every dim.
    """
    t = (variance_ood - variance_id) / (variance_ood + variance_id)
    square = jnp.maximum(t**2, NOTHING)
    end = jnp.clip(t * jnp.sqrt(-dim * jnp.log1p(-square) / square), -FURTHEST, FURTHEST)
    nodes, weights = LEGENDRE.astype(end.dtype)

    def integral(end: jax.Array) -> jax.Array:
        s = end * nodes
        w = jnp.maximum(s**2 / dim, NOTHING)
        return end * jnp.dot(weights, jnp.exp(-0.5 * s**2) * jnp.sqrt(w / -jnp.expm1(-w)))

    return 0.5 + 0.5 * integral(end) / integral(FURTHEST)


def sum_of_normals(shifts: jax.Array, covariance: jax.Array) -> jax.Array:
    """AUROC of the sum of K standardised statistics that are normal with one covariance.

    `shifts` [K] are their means on OOD less those on ID images, `covariance` [K, K] is the same
    on both. Of K independent ones with variance 1 of which one is shifted by d it is
    Phi(d / sqrt(2 K)), and Phi(d / sqrt(2)) is that one's own.
    """
    variance = jnp.sum(covariance)
    return binormal(jnp.sum(shifts), variance, variance)


def flagged_beyond(threshold: float, terms: int) -> float:
    """What one of K `terms` must exceed for their sum, floored at -1, to exceed the threshold.

    Whatever the others are: each is counted as no less than -1. The recommended score adds three
    such terms (`ecood.score.forms.floored`).
    """
    return threshold + (terms - 1)
