"""Gaussians under noise whose scale on P is in a fixed ratio to that on Q: exact, and certified."""

from typing import NamedTuple

import jax

from ecood.theory import bounds, certificate, gap, gaussian
from ecood.theory.gaussian import Gaussian

__all__ = ["Case"]


class Case(NamedTuple):
    """P, Q, a model, and how much of Q's noise falls on P."""

    p: Gaussian
    q: Gaussian
    model: Gaussian
    ratio: float

    def gap(self, sigmas: jax.Array) -> jax.Array:
        """The gap at noise scales sigmas [L] on Q and ratio sigmas on P, nats [L]."""
        p, q = (gaussian.cross_entropy(law, self.model) for law in (self.p, self.q))
        trace = gaussian.fisher_information(self.model)
        return gap.gaussian_gap(q - p, trace, self.ratio * sigmas, sigmas)

    def certified(self, sigmas: jax.Array) -> jax.Array:
        """The lower bound on it that knows of Q its entropy alone, nats [L]."""
        noisy_p = jax.vmap(gaussian.perturb, in_axes=(None, 0))(self.p, self.ratio * sigmas)
        id_log_prob = -jax.vmap(gaussian.cross_entropy, in_axes=(0, None))(noisy_p, self.model)
        dim = self.q.mean.shape[0]
        return certificate.gap(
            bounds.fixed_noise(gaussian.entropy(self.q), sigmas, dim), id_log_prob
        )
