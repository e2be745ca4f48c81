"""Two-sided density: how usual is this pair of likelihood and similarity?"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood import memory
from ecood.baselines.statistics import (
    Gaussian,
    bits,
    finite,
    fit_gaussian,
    held_out,
    negative_log_density,
)
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.flows import Flow
from ecood.images import hold_out
from ecood.score.spem import similarity_to

__all__ = ["TwoSidedState", "two_sided"]


class TwoSidedState(NamedTuple):
    """Variables of flow and encoder, the memory bank, and the Gaussian of (-log p, s)."""

    flow: Any
    encoder: Any
    bank: jax.Array
    gaussian: Gaussian | None


def two_sided(flow: Flow, encoder: Encoder) -> Detector:
    """-log N((-log p(x), s(x)); mean, covariance) in nats, fitted on held-out ID images.

    It uses what SPEM uses, flow, encoder and bank, and combines them after the flow where SPEM
    does so before it: what SPEM must be compared with.

    Source: typicality (Nalisnick et al. 2019) with SPEM's similarity as a second statistic.
    """

    def statistics(state: TwoSidedState, key: jax.Array, images: jax.Array) -> jax.Array:
        similarity = similarity_to(encoder, state.encoder, state.bank, images)
        return jnp.stack([bits(flow, state.flow, key, images), similarity], axis=1)

    def fit(key: jax.Array, id_images: np.ndarray) -> TwoSidedState:
        bank = memory.build(encoder, hold_out(id_images)[0])
        state = TwoSidedState(flow.variables, encoder.variables, bank, None)
        values = map_images(statistics, state, key, images=held_out(id_images))
        return state._replace(gaussian=fit_gaussian(values))

    def score(state: TwoSidedState, key: jax.Array, images: jax.Array) -> jax.Array:
        return finite(negative_log_density(state.gaussian, statistics(state, key, images)))

    return Detector(fit, score)
