"""The integrals of the theory from independent draws, each with its standard error."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "Estimate",
    "cross_entropy",
    "entropy",
    "fisher_information",
    "gap",
    "kl",
    "mean",
]


class Estimate(NamedTuple):
    """A Monte Carlo estimate [] and its standard error [], sd / sqrt(n)."""

    value: jax.Array
    error: jax.Array


def mean(values: jax.Array) -> Estimate:
    """The mean of independent draws, values [n], n >= 2."""
    return Estimate(jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(values.shape[0]))


def gap(id_scores: jax.Array, ood_scores: jax.Array) -> Estimate:
    """The mean OOD score less the mean ID score, of independent draws [n] and [m]."""
    of_id, of_ood = mean(id_scores), mean(ood_scores)
    return Estimate(of_ood.value - of_id.value, jnp.hypot(of_id.error, of_ood.error))


def entropy(log_prob: Callable, points: jax.Array) -> Estimate:
    """H(p) in nats from draws of p; log_prob: x [D] -> [], points [n, D]."""
    return cross_entropy(log_prob, points)


def cross_entropy(log_q: Callable, points: jax.Array) -> Estimate:
    """-E_p log q in nats from draws of p; log_q: x [D] -> [], points [n, D]."""
    return mean(-jax.vmap(log_q)(points))


def kl(log_p: Callable, log_q: Callable, points: jax.Array) -> Estimate:
    """KL(p || q) in nats from draws of p; log_p, log_q: x [D] -> [], points [n, D]."""
    return mean(jax.vmap(log_p)(points) - jax.vmap(log_q)(points))


def fisher_information(log_prob: Callable, points: jax.Array) -> Estimate:
    """J = E_p |grad log p|^2 from draws of p; log_prob: x [D] -> [], points [n, D]."""
    return mean(jnp.sum(jax.vmap(jax.grad(log_prob))(points) ** 2, axis=1))
