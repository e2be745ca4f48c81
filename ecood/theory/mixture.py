"""Gaussian mixtures: known densities with several modes, closed under Gaussian noise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from ecood.theory import gaussian
from ecood.theory.gaussian import Gaussian

__all__ = ["Mixture", "fit", "log_prob", "moments", "perturb", "sample"]


class Mixture(NamedTuple):
    """sum_k weights[k] N(means[k], covariances[k]): [K], [K, D], [K, D, D].

    Weights are positive and sum to one, covariances are positive definite.
    """

    weights: jax.Array
    means: jax.Array
    covariances: jax.Array


def log_prob(mixture: Mixture, x: jax.Array) -> jax.Array:
    """Log-density of one point, x [D] -> [] in nats."""
    parts = Gaussian(mixture.means, mixture.covariances)
    log_probs = jax.vmap(gaussian.log_prob, in_axes=(0, None))(parts, x)
    return logsumexp(jnp.log(mixture.weights) + log_probs)


def sample(key: jax.Array, mixture: Mixture, n: int) -> tuple[jax.Array, jax.Array]:
    """Draws n points [n, D], and tells from which component each came, int [n]."""
    which, noise = jax.random.split(key)
    component = jax.random.categorical(which, jnp.log(mixture.weights), shape=(n,))
    z = jax.random.normal(noise, (n, mixture.means.shape[1]), mixture.means.dtype)
    factors = jnp.linalg.cholesky(mixture.covariances)[component]
    return mixture.means[component] + jnp.einsum("nij,nj->ni", factors, z), component


def fit(x: jax.Array, component: jax.Array, count: int) -> Mixture:
    """The mixture of maximum likelihood of points [n, D] whose components, of `count`, are known.

    Each component needs more than D points, or its covariance is singular.
    """
    own = jax.nn.one_hot(component, count, dtype=x.dtype)
    sizes = jnp.sum(own, axis=0)
    means = own.T @ x / sizes[:, None]
    centred = x[:, None] - means[None]
    covariances = jnp.einsum("nk,nki,nkj->kij", own, centred, centred) / sizes[:, None, None]
    return Mixture(sizes / len(x), means, covariances)


def perturb(mixture: Mixture, sigma: jax.Array) -> Mixture:
    """The law of Y + sigma Z, Z ~ N(0, I) independent of Y and its component: exact.

    `sigma` is one noise scale [], or one per component [K].
    """
    count, dim = mixture.means.shape
    variance = jnp.broadcast_to(jnp.asarray(sigma) ** 2, (count,))
    noise = variance[:, None, None] * jnp.eye(dim, dtype=mixture.covariances.dtype)[None]
    return mixture._replace(covariances=mixture.covariances + noise)


def moments(mixture: Mixture) -> Gaussian:
    """The Gaussian with the mixture's mean and covariance; no law with these has more entropy."""
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean[None, :]
    spread = mixture.covariances + centred[:, :, None] * centred[:, None, :]
    return Gaussian(mean, jnp.einsum("k,kij->ij", mixture.weights, spread))
