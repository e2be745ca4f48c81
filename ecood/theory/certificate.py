"""Lower bounds on the likelihood gap after noise; the noise that makes them positive.

Every certificate is E_{P'} log p + (a lower bound on H(Q')): it drops KL(Q' || p) >= 0
and the slack of the entropy bound. Entropies and log-likelihoods are in nats, noise
scales in units of x; `dim` is D, and all is [].
"""

import jax
import jax.numpy as jnp

from ecood.theory import bounds

__all__ = ["best_sigma", "critical_ratio", "gap", "id_log_prob_bound", "smallest_sigma"]


def gap(entropy_bound: jax.Array, id_log_prob: jax.Array) -> jax.Array:
    """Lower bound on E_{P'} log p - E_{Q'} log p.

    `entropy_bound` is any lower bound on H(Q') (`ecood.theory.bounds`), `id_log_prob`
    is E_{P'} log p, after the noise on P, measured or bounded below.

    Source: Kim & Yoon 2026 (SPEM), theorem 3.1.
    """
    return entropy_bound + id_log_prob


def smallest_sigma(entropy_ood: jax.Array, id_log_prob: jax.Array, dim: int) -> jax.Array:
    """The noise scale on Q above which the gap is certainly positive.

    In terms of entropy powers: sigma^2 = N(-E_{P'} log p) - N(H(Q)), or 0. At sigma the
    certificate is exactly zero; if H(Q) > -E_{P'} log p it is positive for any sigma.
    `entropy_ood` is H(Q), or -inf, and `id_log_prob` is E_{P'} log p, after the noise
    on P. For a noise scale with an index I give H(Q) - H(I); the result is the
    geometric mean that the scale must exceed.
    """
    missing = -id_log_prob - entropy_ood
    there = missing > 0
    # Guarded twice, so that neither the value nor the gradient is NaN where nothing is missing.
    share = -jnp.expm1(-2.0 * jnp.where(there, missing, 1.0) / dim)
    scale = jnp.exp(-jnp.where(there, id_log_prob, 0.0) / dim)
    return jnp.where(there, scale * jnp.sqrt(share * bounds.entropy_power(0.0, dim)), 0.0)


def id_log_prob_bound(
    clean: jax.Array, curvature: jax.Array, sigma_id: jax.Array, dim: int
) -> jax.Array:
    """clean - D L sigma_id^2 / 2, a lower bound on E_{P'} log p; `clean` is E_P log p.

    `curvature` is L with tr(Hessian of log p) >= -D L everywhere, per unit of x
    squared, and `sigma_id` must not depend on the point. Exact for a Gaussian p, L the
    mean of its precisions.
    """
    return clean - 0.5 * dim * curvature * sigma_id**2


def best_sigma(
    entropy_ood: jax.Array, curvature: jax.Array, ratio: jax.Array, dim: int
) -> jax.Array:
    """The noise scale on Q with the best certificate if P's is a fixed share of it.

    It is sqrt(max(1 / (L ratio^2) - N(H(Q)), 0)), `ratio` = sigma_id / sigma_ood > 0,
    `entropy_ood` = H(Q), `curvature` = L as in `id_log_prob_bound`. Noise proportional
    to dissimilarity also lands on P, so that more is not always better.
    """
    # It brings N(H(Q)) + sigma^2 to 1 / (L ratio^2), as the smallest does to N(-E_{P'} log p).
    id_log_prob = 0.5 * dim * jnp.log(curvature * ratio**2 * bounds.entropy_power(0.0, dim))
    return smallest_sigma(entropy_ood, id_log_prob, dim)


def critical_ratio(clean: jax.Array, curvature: jax.Array, dim: int) -> jax.Array:
    """The share sigma_id / sigma_ood below which some noise certifies every Q's gap.

    It is 1 / sqrt(e N(-E_P log p) L), `clean` = E_P log p before noise, `curvature` = L
    as in `id_log_prob_bound`: at most e^{-1/2} = 0.607 for a perfect model, which an
    isotropic Gaussian reaches.
    """
    return jnp.exp(clean / dim) * jnp.sqrt(2.0 * jnp.pi / curvature)
