"""What the baselines share: a flow's statistics of an image, and densities fitted to them.

Statistics are per dimension, in bits, so that they read alike for all image sizes. They are
guarded by SPEM's rule (`ecood.score.spem.guard`): beyond 8 bits/dim, the cost under the uniform
density, only the logarithm counts. So each baseline is finite wherever a flow explodes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood.errors import InputError
from ecood.flows import Flow, bits_per_dim
from ecood.images import content_keys, dequantise, hold_out
from ecood.score.spem import guard

__all__ = [
    "Gaussian",
    "bits",
    "dequantised",
    "finite",
    "fit_gaussian",
    "held_out",
    "latent_bits",
    "negative_log_density",
    "needs_latent",
    "signed_guard",
]

AT_LEAST = 3  # held-out images, for a mean and a covariance of two statistics


def held_out(id_images: np.ndarray) -> np.ndarray:
    """The held-out ID images, on which a detector takes its statistics.

    Raises:
      InputError: if they are fewer than three.
    """
    images = hold_out(id_images)[1]
    if len(images) < AT_LEAST:
        raise InputError(
            f"{len(id_images)} in-distribution images leave {len(images)} held-out ones; expected "
            f"at least {AT_LEAST} to take statistics from: give {20 * AT_LEAST} images or more."
        )
    return images


def needs_latent(flow: Flow, name: str) -> Callable[[Any, jax.Array, jax.Array], tuple]:
    """The flow's `forward_and_log_det`.

    Raises:
      InputError: if the flow has none.
    """
    if flow.forward_and_log_det is None:
        raise InputError(
            f"{name} looks at the flow's latent, and this flow has no forward_and_log_det; give "
            "it one, or choose a detector that needs log_prob only."
        )
    return flow.forward_and_log_det


def dequantised(key: jax.Array, images: jax.Array) -> jax.Array:
    """uint8 [B, H, W, C] to float32 in [0, 1), as `ecood.score.likelihood` dequantises them."""

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        return dequantise(jax.random.fold_in(jax.random.fold_in(key, 0), 0), image)

    return jax.vmap(one)(content_keys(key, images), images)


def bits(flow: Flow, variables: Any, key: jax.Array, images: jax.Array) -> jax.Array:
    """-log p(x) in bits/dim, guarded: the scores of `ecood.score.likelihood`, float32 [B]."""
    log_prob = flow.log_prob(variables, key, dequantised(key, images))
    return guard(bits_per_dim(log_prob, images.shape[1:]))


def latent_bits(
    flow: Flow, variables: Any, key: jax.Array, images: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The density and its two factors, log p(x) = log p(z) + log|det dz/dx|.

    Returns:
      -log p(x), -log p(z) and log|det dz/dx| in bits/dim, guarded, float32 [B] each.
    """
    x, shape = dequantised(key, images), images.shape[1:]
    log_prob = flow.log_prob(variables, key, x)
    _, log_det = flow.forward_and_log_det(variables, key, x)
    nats = math.prod(shape) * math.log(2.0)
    return (
        guard(bits_per_dim(log_prob, shape)),
        signed_guard((log_det - log_prob) / nats),
        signed_guard(log_det / nats),
    )


def signed_guard(values: jax.Array) -> jax.Array:
    """The guard for statistics that may explode in both directions."""
    return jnp.sign(values) * guard(jnp.abs(values))


def finite(scores: jax.Array) -> jax.Array:
    """Scores with infinities and NaN at the ends of the float range: NaN counts as most OOD."""
    largest = jnp.finfo(scores.dtype).max
    return jnp.nan_to_num(scores, nan=largest, posinf=largest, neginf=-largest)


class Gaussian(NamedTuple):
    """A Gaussian over d statistics.

    Attributes:
      mean: float32 [d].
      whitener: W, float32 [d, d], lower triangular; W (x - mean) is standard normal.
    """

    mean: jax.Array
    whitener: jax.Array


def fit_gaussian(values: np.ndarray) -> Gaussian:
    """Mean and covariance of values [N, d], N >= 3.

    A variance has a floor of 1e-8 of the statistic's size squared, so that a statistic that does
    not vary can be fitted.
    """
    values = np.asarray(values, np.float64)
    floor = 1e-8 * (1e-6 + np.mean(values**2, axis=0))
    covariance = np.atleast_2d(np.cov(values, rowvar=False)) + np.diag(floor)
    whitener = np.linalg.inv(np.linalg.cholesky(covariance))
    return Gaussian(jnp.float32(values.mean(0)), jnp.float32(whitener))


def negative_log_density(gaussian: Gaussian, values: jax.Array) -> jax.Array:
    """-log of the Gaussian's density in nats, of values [B, d]."""
    white = (values - gaussian.mean[None]) @ gaussian.whitener.T
    constant = 0.5 * values.shape[1] * math.log(2 * math.pi)
    log_scale = -jnp.sum(jnp.log(jnp.diagonal(gaussian.whitener)))
    return 0.5 * jnp.sum(white**2, axis=1) + log_scale + constant
