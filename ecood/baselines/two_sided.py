"""Two-sided density: how probable is this pair of likelihood and similarity?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ecood import memory
from ecood.baselines.gaussian import Gaussian, fit_gaussian, negative_log_density
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.flows import Flow
from ecood.splits import Split, held_out_of
from ecood.statistics import bits, finite, of_id_images, similarity

__all__ = ["TwoSidedScored", "TwoSidedState", "two_sided"]


class TwoSidedState(NamedTuple):
    """Flow, encoder, memory bank, and the Gaussian of (-log p, s)."""

    flow: Flow
    encoder: Encoder
    bank: memory.Bank
    gaussian: Gaussian


class TwoSidedScored(NamedTuple):
    """The score in nats, -log p(x) in bits/dim and the similarity, float32 [B] each."""

    score: jax.Array
    bits: jax.Array
    similarity: jax.Array


def two_sided(flow: Flow, encoder: Encoder) -> Detector:
    """-log N((-log p(x), s(x)); mean, covariance) in nats, fitted on held-out ID images.

    It uses what SPEM uses, flow, encoder and bank, and combines them after the flow where SPEM
    does so before it: what SPEM must be compared with.

    Source: typicality (Nalisnick et al. 2019) with SPEM's similarity as a second statistic.
    """

    def fit(key: jax.Array, split: Split) -> TwoSidedState:
        held_out = held_out_of(split, flow, encoder)
        bank = memory.build(encoder, split.train)
        values = of_id_images(map_images(_pair, flow, encoder, bank, key, images=held_out))
        return TwoSidedState(flow, encoder, bank, fit_gaussian(values))

    return Detector(fit, _detect)


def _pair(
    flow: Flow, encoder: Encoder, bank: memory.Bank, key: jax.Array, images: jax.Array
) -> jax.Array:
    """[B, 2]: -log p(x) and s(x)."""
    return jnp.stack([bits(flow, key, images), similarity(encoder, bank, images)], axis=1)


def _detect(state: TwoSidedState, key: jax.Array, images: jax.Array) -> TwoSidedScored:
    values = _pair(*state[:3], key, images)
    return TwoSidedScored(finite(negative_log_density(state.gaussian, values)), *values.T)
