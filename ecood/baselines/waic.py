"""WAIC: the likelihood of an ensemble, less what its members disagree about."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecood.baselines.statistics import bits, finite
from ecood.detector import Detector
from ecood.errors import InputError
from ecood.flows import Flow

__all__ = ["waic"]


def waic(*flows: Flow) -> Detector:
    """-E_m[log p_m(x)] + Var_m[log p_m(x)] in nats, over the members m of an ensemble.

    Log-densities are those of the whole image, and the variance is the mean squared deviation,
    as in the paper. Guarded bits/dim are turned back into nats, so that the variance is finite.

    Args:
      *flows: two flows or more, trained on the same images from different seeds; the state is
        the tuple of their variables.

    Raises:
      InputError: for fewer than two.

    Source: Choi et al. 2018, "WAIC, but Why? Generative Ensembles for Robust Anomaly Detection",
    equation 2.
    """
    if len(flows) < 2:
        raise InputError(
            f"{len(flows)} flow was given; expected an ensemble of two or more, trained from "
            "different seeds."
        )

    def fit(key: jax.Array, id_images: np.ndarray) -> tuple[Any, ...]:
        del key, id_images
        return tuple(flow.variables for flow in flows)

    def score(state: tuple[Any, ...], key: jax.Array, images: jax.Array) -> jax.Array:
        pairs = zip(flows, state, strict=True)
        costs = jnp.stack([bits(flow, variables, key, images) for flow, variables in pairs])
        nats = (costs - 8.0) * (math.prod(images.shape[1:]) * math.log(2.0))
        return finite(jnp.mean(nats, axis=0) + jnp.var(nats, axis=0))

    return Detector(fit, score)
