"""Typicality: an image is odd whose likelihood is too low or too high, singly or in groups."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood.baselines.statistics import bits, held_out
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.flows import Flow

__all__ = ["TypicalityState", "group_typicality", "typicality"]


class TypicalityState(NamedTuple):
    """The flow's variables and its entropy H in bits/dim, estimated on held-out ID images."""

    flow: Any
    entropy: jax.Array


def typicality(flow: Flow) -> Detector:
    """|-log p(x) - H| in bits/dim.

    The paper takes H from the training images; here it is the mean over held-out ones, whose
    likelihood the flow has not maximised.

    Source: Nalisnick et al. 2019, "Detecting Out-of-Distribution Inputs to Deep Generative
    Models Using Typicality", equation 5 with M = 1.
    """

    def cost(variables: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        return bits(flow, variables, key, images)

    def fit(key: jax.Array, id_images: np.ndarray) -> TypicalityState:
        costs = map_images(cost, flow.variables, key, images=held_out(id_images))
        return TypicalityState(flow.variables, jnp.float32(np.mean(costs, dtype=np.float64)))

    def score(state: TypicalityState, key: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.abs(cost(state.flow, key, images) - state.entropy)

    return Detector(fit, score)


def group_typicality(entropy: jax.Array | float, likelihood_scores: jax.Array) -> jax.Array:
    """|mean over the group of -log p(x) - H|: the test of groups, which the paper is about.

    Args:
      entropy: H in bits/dim, `TypicalityState.entropy`.
      likelihood_scores: -log p(x) in bits/dim, [G, M]: G groups of M images, as
        `ecood.score.likelihood` scores them.

    Returns:
      [G], larger means more OOD.

    Source: Nalisnick et al. 2019, equation 5.
    """
    return jnp.abs(jnp.mean(jnp.asarray(likelihood_scores), axis=1) - entropy)
