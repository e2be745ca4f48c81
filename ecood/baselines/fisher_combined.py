"""Two tests in one p-value: typicality, and Rao's score statistic."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood.baselines.gradients import map_gradients, parameters
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.flows import Flow, bits_per_dim
from ecood.splits import Split, held_out_of
from ecood.statistics import finite, guard, of_id_images

__all__ = [
    "CombinedScored",
    "CombinedState",
    "Tail",
    "fisher_combined",
    "fit_tail",
    "log_tail_probability",
]

INFORMATION_IMAGES = 1000  # training images that the Fisher information is averaged over
DAMPING = 1e-8  # added to it, as in the authors' code


class Tail(NamedTuple):
    """A statistic's values on ID images, ascending, [N], and its scale beyond them [].

    `excess` is the mean excess over the values' 90% quantile.
    """

    values: jax.Array
    excess: jax.Array


class CombinedState(NamedTuple):
    """What the two tests need.

    `information` is F's diagonal, of the parameters' structure, `entropy` H in
    bits/dim, `typicality` the tail of |-log p(x) - H|, `statistic` that of log S(x).
    """

    flow: Flow
    information: Any
    entropy: jax.Array
    typicality: Tail
    statistic: Tail


class CombinedScored(NamedTuple):
    """The score and the logarithms of the two p-values that it combines, float32 [B] each."""

    score: jax.Array
    log_p_typicality: jax.Array
    log_p_statistic: jax.Array


def fisher_combined(flow: Flow) -> Detector:
    """-2 (log p_T + log p_S): Fisher's combination of the p-values of two statistics.

    T(x) = |-log p(x) - H|, typicality; S(x) = g^T F^-1 g with g the gradient of log p(x) in the
    parameters and F the Fisher information's diagonal, E[g^2] over ID training images (up to a
    thousand, evenly spaced). The p-values are shares of held-out ID images with a larger
    statistic, (1 + n) / (1 + N). Where an image exceeds all of them, the paper's p-value is
    constant; here it goes on falling, exponentially in T and log S, so that scores still order.

    Source: Bergamin et al. 2022, "Model-agnostic out-of-distribution detection using combined
    statistical tests", section 4.
    """

    def fit(key: jax.Array, split: Split) -> CombinedState:
        held_out, train = held_out_of(split, flow), split.train
        few = np.linspace(0, len(train) - 1, min(len(train), INFORMATION_IMAGES)).astype(int)
        information = jax.jit(_information)(flow, key, train[few])
        found = map_images(_statistics, flow, information, key, images=held_out)
        bits, statistic = of_id_images(found).T
        entropy = np.float32(bits.mean(dtype=np.float64))
        tails = fit_tail(np.abs(bits - entropy)), fit_tail(statistic)
        return CombinedState(flow, information, jnp.asarray(entropy), *tails)

    return Detector(fit, _detect)


def _statistics(flow: Flow, information: Any, key: jax.Array, images: jax.Array) -> jax.Array:
    """[B, 2]: -log p(x) in bits/dim and log S(x)."""

    def both(log_prob: jax.Array, gradient: Any) -> jax.Array:
        terms = jax.tree.map(lambda g, f: jnp.sum(g**2 / f), gradient, information)
        statistic = jnp.log(sum(jax.tree.leaves(terms)))
        return jnp.stack([guard(bits_per_dim(log_prob, images.shape[1:])), finite(statistic)])

    return map_gradients(flow, key, images, both)


def _detect(state: CombinedState, key: jax.Array, images: jax.Array) -> CombinedScored:
    bits, statistic = _statistics(state.flow, state.information, key, images).T
    log_p = (
        log_tail_probability(state.typicality, jnp.abs(bits - state.entropy)),
        log_tail_probability(state.statistic, statistic),
    )
    return CombinedScored(finite(-2 * (log_p[0] + log_p[1])), *log_p)


def _information(flow: Flow, key: jax.Array, images: jax.Array) -> Any:
    """The mean over images of the squared gradient, plus the damping; one image at a time."""
    zeros = jax.tree.map(jnp.zeros_like, parameters(flow)[0])

    def squares(_: jax.Array, gradient: Any) -> Any:
        return jax.tree.map(jnp.square, gradient)

    def add(total: Any, image: jax.Array) -> tuple[Any, None]:
        squared = map_gradients(flow, key, image[None], squares)
        return jax.tree.map(lambda t, s: t + s[0], total, squared), None

    total, _ = jax.lax.scan(add, zeros, images)
    return jax.tree.map(lambda t: t / len(images) + DAMPING, total)


def fit_tail(values: np.ndarray) -> Tail:
    """The tail of a statistic from its values on ID images, [N]."""
    values = np.sort(np.asarray(values, np.float64))
    beyond = values - np.quantile(values, 0.9)
    excess = max(float(np.mean(beyond[beyond >= 0])), 1e-6 * (1.0 + abs(float(values[-1]))))
    return Tail(jnp.float32(values), jnp.float32(excess))


def log_tail_probability(tail: Tail, values: jax.Array) -> jax.Array:
    """log of the share of ID images whose statistic is at least as large, [B] to [B].

    (1 + n) / (1 + N) with n of the N ID values; beyond the largest one, 1 / (1 + N) times an
    exponential of the tail's mean excess.
    """
    n = len(tail.values)
    at_least = n - jnp.searchsorted(tail.values, values, side="left")
    beyond = jnp.maximum(values - tail.values[-1], 0.0) / tail.excess
    return jnp.log1p(at_least.astype(jnp.float32)) - jnp.log1p(float(n)) - beyond
