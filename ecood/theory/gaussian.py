"""Gaussians with full covariance: every quantity of the theory in closed form."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

__all__ = [
    "Gaussian",
    "cross_entropy",
    "entropy",
    "fisher_information",
    "kl",
    "log_prob",
    "perturb",
    "sample",
]

LOG_2PI = math.log(2.0 * math.pi)


class Gaussian(NamedTuple):
    """N(mean [D], covariance [D, D]), the covariance positive definite."""

    mean: jax.Array
    covariance: jax.Array


def _log_det(factor: jax.Array) -> jax.Array:
    """The log-determinant of A from A's Cholesky factor [D, D]."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))


def log_prob(gaussian: Gaussian, x: jax.Array) -> jax.Array:
    """Log-density of one point, x [D] -> [] in nats."""
    factor = jnp.linalg.cholesky(gaussian.covariance)
    # The inverse factor, because mapped over many x it is one matrix product and no solve.
    whiten = solve_triangular(factor, jnp.eye(x.shape[0], dtype=factor.dtype), lower=True)
    white = whiten @ (x - gaussian.mean)
    return -0.5 * (x.shape[0] * LOG_2PI + _log_det(factor) + jnp.sum(white**2))


def sample(key: jax.Array, gaussian: Gaussian, n: int) -> jax.Array:
    """Draws n points, [n, D]."""
    factor = jnp.linalg.cholesky(gaussian.covariance)
    z = jax.random.normal(key, (n, gaussian.mean.shape[0]), gaussian.mean.dtype)
    return gaussian.mean[None, :] + z @ factor.T


def perturb(gaussian: Gaussian, sigma: jax.Array) -> Gaussian:
    """The law of Y + sigma Z for Y ~ `gaussian` and independent Z ~ N(0, I); sigma []."""
    noise = sigma**2 * jnp.eye(gaussian.mean.shape[0], dtype=gaussian.covariance.dtype)
    return Gaussian(gaussian.mean, gaussian.covariance + noise)


def entropy(gaussian: Gaussian) -> jax.Array:
    """H = (D log 2 pi e + log det Sigma) / 2 in nats, []."""
    dim = gaussian.mean.shape[0]
    return 0.5 * (dim * (LOG_2PI + 1.0) + _log_det(jnp.linalg.cholesky(gaussian.covariance)))


def _misfit(p: Gaussian, q: Gaussian) -> tuple[jax.Array, jax.Array]:
    """(E_p |x - mean_q|^2 in the metric of q's precision, log det of q's covariance)."""
    factor = jnp.linalg.cholesky(q.covariance)
    shift = solve_triangular(factor, p.mean - q.mean, lower=True)
    trace = jnp.trace(cho_solve((factor, True), p.covariance))
    return trace + jnp.sum(shift**2), _log_det(factor)


def cross_entropy(p: Gaussian, q: Gaussian) -> jax.Array:
    """-E_p log q in nats, []."""
    misfit, log_det = _misfit(p, q)
    return 0.5 * (p.mean.shape[0] * LOG_2PI + log_det + misfit)


def kl(p: Gaussian, q: Gaussian) -> jax.Array:
    """KL(p || q) = E_p log(p / q) in nats, []."""
    misfit, log_det = _misfit(p, q)
    own_log_det = _log_det(jnp.linalg.cholesky(p.covariance))
    return 0.5 * (misfit - p.mean.shape[0] + log_det - own_log_det)


def fisher_information(gaussian: Gaussian) -> jax.Array:
    """J = E |grad log p|^2 = tr Sigma^-1, the trace of the Fisher information of location, []."""
    eye = jnp.eye(gaussian.mean.shape[0], dtype=gaussian.covariance.dtype)
    return jnp.trace(cho_solve((jnp.linalg.cholesky(gaussian.covariance), True), eye))
