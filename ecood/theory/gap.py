"""The likelihood gap and its four terms; exact under a Gaussian model. All nats, []."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["GapTerms", "decompose", "gaussian_gap", "gaussian_zero"]


class GapTerms(NamedTuple):
    """E_P log p - E_Q log p = KL(Q || p) - KL(P || p) + H(Q) - H(P).

    Source: Caterini & Loaiza-Ganem 2022, "Entropic issues in likelihood-based OOD
    detection".
    """

    kl_ood: jax.Array
    kl_id: jax.Array
    entropy_ood: jax.Array
    entropy_id: jax.Array

    @property
    def gap(self) -> jax.Array:
        """Positive when the likelihood favours the in-distribution, negative in the paradox."""
        return self.kl_ood - self.kl_id + self.entropy_ood - self.entropy_id


def decompose(
    id_log_prob: jax.Array, ood_log_prob: jax.Array, entropy_id: jax.Array, entropy_ood: jax.Array
) -> GapTerms:
    """The terms from mean log-likelihoods and entropies, by KL = -E log p - H."""
    return GapTerms(-ood_log_prob - entropy_ood, -id_log_prob - entropy_id, entropy_ood, entropy_id)


def gaussian_gap(
    gap: jax.Array, precision_trace: jax.Array, sigma_id: jax.Array, sigma_ood: jax.Array
) -> jax.Array:
    """The gap after noise for a Gaussian model p, whatever P and Q are: exact.

    It is gap + (sigma_ood^2 - sigma_id^2) precision_trace / 2, `precision_trace` the
    trace of p's inverse covariance: common noise changes nothing.
    """
    return gap + 0.5 * precision_trace * (sigma_ood**2 - sigma_id**2)


def gaussian_zero(gap: jax.Array, precision_trace: jax.Array, sigma_id: jax.Array) -> jax.Array:
    """The noise scale on Q at which a Gaussian model's gap crosses zero (0 if it never must)."""
    square = sigma_id**2 - 2.0 * gap / precision_trace
    # Guarded twice, so that neither the value nor the gradient is NaN where it never must.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
