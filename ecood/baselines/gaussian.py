"""A Gaussian over statistics or embeddings of in-distribution images."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "Gaussian",
    "fit_gaussian",
    "fit_shrunk_gaussian",
    "negative_log_density",
]


class Gaussian(NamedTuple):
    """A Gaussian over d statistics: its mean [d], and the whitener W [d, d].

    W is lower triangular, and W (x - mean) is standard normal.
    """

    mean: jax.Array
    whitener: jax.Array


def fit_gaussian(values: np.ndarray) -> Gaussian:
    """Mean and covariance of values [N, d], N >= 3.

    A variance has a floor of 1e-8 of the statistic's mean square, should it not vary.
    """
    values = np.asarray(values, np.float64)
    floor = 1e-8 * (1e-6 + np.mean(values**2, axis=0))
    covariance = np.atleast_2d(np.cov(values, rowvar=False)) + np.diag(floor)
    return _gaussian(values.mean(0), covariance)


def fit_shrunk_gaussian(values: np.ndarray) -> Gaussian:
    """Mean and shrunk covariance of values [N, d]; N may be below d.

    The covariance is (1 - a) S + a (tr S / d) I, S that of the values and a the share with the
    least expected squared error. A variance has a floor of 1e-8 of the mean square.

    Source: Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
    matrices".
    """
    values = np.asarray(values, np.float64)
    count, d = values.shape
    centred = values - values.mean(0)
    covariance = centred.T @ centred / count
    level = np.trace(covariance) / d
    # Both squared norms are divided by d, as in the paper.
    distance = np.sum(covariance**2) / d - level**2
    noise = (np.mean(np.sum(centred**2, axis=1) ** 2) - np.sum(covariance**2)) / (count * d)
    share = np.clip(noise / distance, 0, 1) if distance > 0 else 1.0
    floor = 1e-8 * (1e-6 + np.mean(values**2))
    return _gaussian(values.mean(0), (1 - share) * covariance + (share * level + floor) * np.eye(d))


def _gaussian(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    whitener = np.linalg.inv(np.linalg.cholesky(covariance))
    return Gaussian(jnp.float32(mean), jnp.float32(whitener))


def negative_log_density(gaussian: Gaussian, values: jax.Array) -> jax.Array:
    """-log of the Gaussian's density in nats, of values [B, d]."""
    centred = values - gaussian.mean[None]
    white = jnp.matmul(centred, gaussian.whitener.T, precision="highest")
    constant = 0.5 * values.shape[1] * math.log(2 * math.pi)
    log_scale = -jnp.sum(jnp.log(jnp.diagonal(gaussian.whitener)))
    return 0.5 * jnp.sum(white**2, axis=1) + log_scale + constant
