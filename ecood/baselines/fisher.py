"""Layer-wise gradient norms: how much would each layer want to change for this image?"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood.baselines.gradients import log_norm, map_gradients
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.flows import Flow
from ecood.splits import Split, held_out_of
from ecood.statistics import finite, of_id_images

__all__ = ["FisherScored", "FisherState", "fisher", "layer_norms"]


class FisherState(NamedTuple):
    """The flow, and mean and standard deviation of each layer's log norm, [L]."""

    flow: Flow
    mean: jax.Array
    spread: jax.Array


class FisherScored(NamedTuple):
    """The score in nats [B], and each layer's log squared norm [B, L]."""

    score: jax.Array
    layer_norms: jax.Array


def layer_norms(flow: Flow, gradient: Any) -> jax.Array:
    """log |g_l|^2 of each layer l of a gradient, float32 [L].

    A layer is one parameter array: a kernel, a bias, a log-scale. The arrays that a flow names in
    `stacked` hold many layers, one after the other along their first axis.
    """
    stacked = getattr(flow.density, "stacked", ())

    def norms(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        is_stacked = bool(path) and getattr(path[0], "key", None) in stacked
        rows = leaf.reshape(len(leaf), -1) if is_stacked else leaf.reshape(1, -1)
        return 2 * log_norm(rows, (1,))

    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return jnp.concatenate([norms(path, leaf) for path, leaf in leaves])


def fisher(flow: Flow) -> Detector:
    """-sum_l log N(log |grad_l log p(x)|^2; mean_l, sd_l), in nats, l the flow's layers.

    With the Fisher information taken as a multiple of the identity in each layer, a
    layer's squared gradient norm is its score statistic; the Gaussians are fitted on
    held-out ID images. A layer whose norm does not vary there is left out.

    Source: Dauncey et al. 2024, "Approximations to the Fisher Information Metric of
    Deep Generative Models for Out-Of-Distribution Detection", with groups of one image.
    """

    def fit(key: jax.Array, split: Split) -> FisherState:
        norms = map_images(_norms, flow, key, images=held_out_of(split, flow))
        values = np.float64(of_id_images(norms))
        return FisherState(flow, jnp.float32(values.mean(0)), jnp.float32(values.std(0, ddof=1)))

    return Detector(fit, _detect)


def _norms(flow: Flow, key: jax.Array, images: jax.Array) -> jax.Array:
    """[B, L]."""
    return finite(map_gradients(flow, key, images, lambda _, g: layer_norms(flow, g)))


def _detect(state: FisherState, key: jax.Array, images: jax.Array) -> FisherScored:
    values = _norms(state.flow, key, images)
    varies = state.spread > 1e-6
    spread = jnp.where(varies, state.spread, 1.0)[None]
    cost = 0.5 * ((values - state.mean[None]) / spread) ** 2 + jnp.log(spread)
    cost += 0.5 * math.log(2 * math.pi)
    return FisherScored(finite(jnp.sum(jnp.where(varies[None], cost, 0.0), axis=1)), values)
