"""Lower bounds on the likelihood gap after noise, and the noise that makes them positive.

Every certificate is E_{P'} log p + (a lower bound on H(Q')): what it drops is KL(Q' || p) >= 0 and
the slack of the entropy bound. Entropies and log-likelihoods are in nats, `dim` is D.
"""

import jax
import jax.numpy as jnp

from ecood.theory import bounds

__all__ = ["best_sigma", "critical_ratio", "gap", "id_log_prob_bound", "smallest_sigma"]


def gap(entropy_bound: jax.Array, id_log_prob: jax.Array) -> jax.Array:
    """Lower bound on E_{P'} log p - E_{Q'} log p.

    Args:
      entropy_bound: any lower bound on H(Q'), from `ecood.theory.bounds`, [].
      id_log_prob: E_{P'} log p, after the noise on P, measured or bounded below, [].

    Returns:
      Their sum, [].

    Source: Kim & Yoon 2026 (SPEM), theorem 3.1.
    """
    return entropy_bound + id_log_prob


def smallest_sigma(entropy_ood: jax.Array, id_log_prob: jax.Array, dim: int) -> jax.Array:
    """The noise scale on Q above which the gap is certainly positive.

    In terms of entropy powers: sigma^2 = N(-E_{P'} log p) - N(H(Q)), if that is positive.

    Args:
      entropy_ood: H(Q), [], -inf allowed. For a noise scale with an index I: H(Q) - H(I), and
        the result is the geometric mean that the scale must exceed.
      id_log_prob: E_{P'} log p, after the noise on P, [].
      dim: D.

    Returns:
      sigma, [], in units of x; the certificate is exactly zero there, or positive for any sigma
      if the result is 0 and H(Q) > -E_{P'} log p.
    """
    missing = bounds.entropy_power(-id_log_prob, dim) - bounds.entropy_power(entropy_ood, dim)
    return jnp.sqrt(jnp.maximum(missing, 0.0))


def id_log_prob_bound(
    clean: jax.Array, curvature: jax.Array, sigma_id: jax.Array, dim: int
) -> jax.Array:
    """Lower bound on E_{P'} log p from its value before noise.

    Args:
      clean: E_P log p, [].
      curvature: L with tr(Hessian of log p) >= -D L everywhere, per unit of x squared, [].
      sigma_id: noise scale on P, independent of the point, [].
      dim: D.

    Returns:
      clean - D L sigma_id^2 / 2, []; exact for a Gaussian p, L the mean of its precisions.
    """
    return clean - 0.5 * dim * curvature * sigma_id**2


def best_sigma(
    entropy_ood: jax.Array, curvature: jax.Array, ratio: jax.Array, dim: int
) -> jax.Array:
    """The noise scale on Q that maximises the certificate when P's is a fixed share of it.

    Noise proportional to dissimilarity also lands on P, so that more is not always better.

    Args:
      entropy_ood: H(Q), [].
      curvature: L as in `id_log_prob_bound`, [].
      ratio: sigma_id / sigma_ood, [], > 0.
      dim: D.

    Returns:
      sqrt(max(1 / (L ratio^2) - N(H(Q)), 0)), [], in units of x.
    """
    optimum = 1.0 / (curvature * ratio**2) - bounds.entropy_power(entropy_ood, dim)
    return jnp.sqrt(jnp.maximum(optimum, 0.0))


def critical_ratio(clean: jax.Array, curvature: jax.Array, dim: int) -> jax.Array:
    """The share sigma_id / sigma_ood below which some noise certifies a positive gap for every Q.

    Args:
      clean: E_P log p before noise, [].
      curvature: L as in `id_log_prob_bound`, [].
      dim: D.

    Returns:
      1 / sqrt(e N(-E_P log p) L), []; at most e^{-1/2} = 0.607 for a perfect model, which an
      isotropic Gaussian reaches.
    """
    return jax.lax.rsqrt(jnp.e * bounds.entropy_power(-clean, dim) * curvature)
