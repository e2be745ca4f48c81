"""Approximate mass: how steep is the density at the image?"""

import jax
import jax.numpy as jnp

from ecood.baselines.gradients import log_norm
from ecood.detector import Detector, Scored, already_fitted
from ecood.flows import Flow
from ecood.statistics import dequantised, finite

__all__ = ["gradient_norm"]


def gradient_norm(flow: Flow) -> Detector:
    """log |grad_x log p(x)|, log p in nats, x in units of the pixel range.

    A point of high density but little mass is where the density changes fast around it. The
    logarithm changes no ranking and keeps exploding gradients in range.

    Source: Grathwohl et al. 2020, "Your Classifier is Secretly an Energy Based Model and You
    Should Treat it Like One", section 5.3, where the score is minus this norm.
    """
    return Detector(already_fitted(flow), _detect)


def _detect(flow: Flow, key: jax.Array, images: jax.Array) -> Scored:
    def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        nats = flow.log_prob(key, x)
        return jnp.sum(nats), nats

    gradient, nats = jax.grad(total, has_aux=True)(dequantised(key, images))
    norm = log_norm(gradient, (1, 2, 3))
    return Scored(finite(jnp.where(jnp.isfinite(nats), norm, jnp.nan)))  # no gradient of nothing
