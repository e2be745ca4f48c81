"""Layer-wise gradient norms: how much would each layer want to change for this image?"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood.baselines.gradients import log_norm, map_gradients, stacked
from ecood.baselines.statistics import finite, held_out
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.flows import Flow

__all__ = ["FisherState", "fisher", "layer_norms"]


class FisherState(NamedTuple):
    """The flow's variables, and mean and standard deviation of each layer's log norm, [L]."""

    flow: Any
    mean: jax.Array
    spread: jax.Array


def layer_norms(flow: Flow, gradient: Any) -> jax.Array:
    """log |g_l|^2 of each layer l of a gradient, float32 [L].

    A layer is one parameter array: a kernel, a bias, a log-scale. Arrays that hold the steps of
    a level one after the other (Glow and Residual Flow of this package) are one layer a step.
    """

    def norms(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(len(leaf), -1) if stacked(flow, path) else leaf.reshape(1, -1)
        return 2 * log_norm(rows, (1,))

    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return jnp.concatenate([norms(path, leaf) for path, leaf in leaves])


def fisher(flow: Flow) -> Detector:
    """-sum_l log N(log |grad_l log p(x)|^2; mean_l, sd_l), in nats, l the flow's layers.

    With the Fisher information matrix taken as a multiple of the identity in each layer, the
    squared norm of a layer's gradient is its score statistic; the joint density of their
    logarithms is a product of Gaussians, fitted on held-out ID images. A layer whose norm does
    not vary there is left out.

    Source: Dauncey et al. 2024, "Approximations to the Fisher Information Metric of Deep
    Generative Models for Out-Of-Distribution Detection", with groups of one image.
    """

    def statistics(variables: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        def norms(log_prob: jax.Array, gradient: Any) -> jax.Array:
            del log_prob
            return layer_norms(flow, gradient)

        return map_gradients(flow, variables, key, images, norms)

    def fit(key: jax.Array, id_images: np.ndarray) -> FisherState:
        values = map_images(statistics, flow.variables, key, images=held_out(id_images))
        values = np.asarray(finite(jnp.asarray(values)), np.float64)
        return FisherState(
            flow.variables, jnp.float32(values.mean(0)), jnp.float32(values.std(0, ddof=1))
        )

    def score(state: FisherState, key: jax.Array, images: jax.Array) -> jax.Array:
        values = finite(statistics(state.flow, key, images))
        varies = state.spread > 1e-6
        spread = jnp.where(varies, state.spread, 1.0)[None]
        cost = 0.5 * ((values - state.mean[None]) / spread) ** 2 + jnp.log(spread)
        cost += 0.5 * math.log(2 * math.pi)
        return finite(jnp.sum(jnp.where(varies[None], cost, 0.0), axis=1))

    return Detector(fit, score)
