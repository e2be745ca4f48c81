"""Typicality: an image is odd whose likelihood is too low or too high, singly or in groups."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood.batches import map_images
from ecood.detector import Detector
from ecood.flows import Flow
from ecood.splits import Split, held_out_of
from ecood.statistics import bits, of_id_images

__all__ = ["TypicalityScored", "TypicalityState", "group_typicality", "typicality"]


class TypicalityState(NamedTuple):
    """The flow and its entropy H in bits/dim, estimated on held-out ID images."""

    flow: Flow
    entropy: jax.Array


class TypicalityScored(NamedTuple):
    """The score, and -log p(x) whose distance from H it is; bits/dim, float32 [B]."""

    score: jax.Array
    bits: jax.Array


def typicality(flow: Flow) -> Detector:
    """|-log p(x) - H| in bits/dim.

    The paper takes H from the training images; here it is the mean over held-out ones, whose
    likelihood the flow has not maximised.

    Source: Nalisnick et al. 2019, "Detecting Out-of-Distribution Inputs to Deep Generative
    Models Using Typicality", equation 5 with M = 1.
    """

    def fit(key: jax.Array, split: Split) -> TypicalityState:
        costs = of_id_images(map_images(bits, flow, key, images=held_out_of(split, flow)))
        return TypicalityState(flow, jnp.float32(np.mean(costs, dtype=np.float64)))

    return Detector(fit, _detect)


def _detect(state: TypicalityState, key: jax.Array, images: jax.Array) -> TypicalityScored:
    cost = bits(state.flow, key, images)
    return TypicalityScored(jnp.abs(cost - state.entropy), cost)


def group_typicality(entropy: jax.Array | float, likelihood_scores: jax.Array) -> jax.Array:
    """|mean over the group of -log p(x) - H|, [G]: the test of groups, as in the paper.

    `entropy` is H in bits/dim, `TypicalityState.entropy`; `likelihood_scores` are -log
    p(x) in bits/dim, [G, M]: G groups of M images, as `ecood.score.likelihood` scores
    them.

    Source: Nalisnick et al. 2019, equation 5.
    """
    return jnp.abs(jnp.mean(jnp.asarray(likelihood_scores), axis=1) - entropy)
