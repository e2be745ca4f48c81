"""Density of states: how probable are the flow's own statistics of an image?"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood.batches import map_images
from ecood.detector import Detector
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.splits import Split, held_out_of
from ecood.statistics import check_latent, finite, latent_bits, of_id_images

__all__ = ["DoSEScored", "KDEState", "SVMState", "dose_kde", "dose_svm"]


class DoSEScored(NamedTuple):
    """The score in nats, and the statistics in bits/dim; float32 [B] each."""

    score: jax.Array
    bits: jax.Array
    latent_bits: jax.Array
    log_det: jax.Array


class KDEState(NamedTuple):
    """The flow, the statistics [N, 3] of held-out ID images, a bandwidth for each."""

    flow: Flow
    values: jax.Array
    bandwidth: jax.Array


def dose_kde(flow: Flow) -> Detector:
    """-sum_i log q_i(T_i(x)) in nats, T = (log p(x), log p(z), log|det dz/dx|) in bits/dim.

    z is the standard normal latent. q_i is a Gaussian kernel density estimate over
    held-out ID images, one for each statistic, with Scott's bandwidth, sd * N^(-1/5).

    Source: Morningstar et al. 2021, "Density of States Estimation for
    Out-of-Distribution Detection", DoSE_KDE with the statistics of its section on Glow.
    """
    check_latent(flow, "DoSE")

    def fit(key: jax.Array, split: Split) -> KDEState:
        held_out = held_out_of(split, flow)
        values = of_id_images(map_images(_statistics, flow, key, images=held_out))
        bandwidth = _spread(values) * len(values) ** -0.2
        return KDEState(flow, jnp.asarray(values), jnp.asarray(bandwidth))

    return Detector(fit, _detect_kde)


def _detect_kde(state: KDEState, key: jax.Array, images: jax.Array) -> DoSEScored:
    values = _statistics(state.flow, key, images)
    width = state.bandwidth[None, None]
    distance = (values[:, None] - state.values[None]) / width
    log_kernel = -0.5 * distance**2 - jnp.log(width * math.sqrt(2 * math.pi))
    log_density = jax.nn.logsumexp(log_kernel, axis=1) - math.log(len(state.values))
    return DoSEScored(finite(-jnp.sum(log_density, axis=1)), *values.T)


class SVMState(NamedTuple):
    """A one-class support vector machine over the standardised statistics.

    `mean` and `spread` are [3], support vectors [S, 3], `log_weights` the logarithms of
    their dual coefficients [S]; the kernel is exp(-gamma |t - t'|^2).
    """

    flow: Flow
    mean: jax.Array
    spread: jax.Array
    vectors: jax.Array
    log_weights: jax.Array
    gamma: jax.Array


def dose_svm(flow: Flow) -> Detector:
    """-log sum_j a_j exp(-gamma |t(x) - t_j|^2), of a one-class SVM on the same statistics.

    The logarithm ranks images as the machine's decision function, sum_j a_j k(t, t_j) -
    rho, and still tells apart images so far from all support vectors that every kernel
    is zero. scikit-learn fits it with its defaults, gamma = 1 / 3 and nu = 1/2.

    Source: Morningstar et al. 2021, DoSE_SVM; Schölkopf et al. 2001, "Estimating the
    Support of a High-Dimensional Distribution".
    """
    check_latent(flow, "DoSE")

    def fit(key: jax.Array, split: Split) -> SVMState:
        try:
            from sklearn.svm import OneClassSVM
        except ImportError:
            raise InputError(
                "DoSE's one-class SVM is fitted by scikit-learn, which is not installed; install "
                'it with pip install "ecood[baselines]".'
            ) from None
        held_out = held_out_of(split, flow)
        values = of_id_images(map_images(_statistics, flow, key, images=held_out))
        mean, spread = values.mean(axis=0), _spread(values)
        gamma = 1 / values.shape[1]
        machine = OneClassSVM(gamma=gamma).fit(np.float64((values - mean) / spread))
        return SVMState(
            flow,
            jnp.asarray(mean),
            jnp.asarray(spread),
            jnp.float32(machine.support_vectors_),
            jnp.float32(np.log(machine.dual_coef_[0])),
            jnp.float32(gamma),
        )

    return Detector(fit, _detect_svm)


def _detect_svm(state: SVMState, key: jax.Array, images: jax.Array) -> DoSEScored:
    statistics = _statistics(state.flow, key, images)
    values = (statistics - state.mean[None]) / state.spread[None]
    distance = jnp.sum((values[:, None] - state.vectors[None]) ** 2, axis=2)
    terms = state.log_weights[None] - state.gamma * distance
    return DoSEScored(finite(-jax.nn.logsumexp(terms, axis=1)), *statistics.T)


def _statistics(flow: Flow, key: jax.Array, images: jax.Array) -> jax.Array:
    """[B, 3], the statistics in bits/dim."""
    return jnp.stack(latent_bits(flow, key, images), axis=1)


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviations [3], with a floor for a statistic that does not vary."""
    floor = 1e-3 * (1e-3 + np.abs(values).mean(axis=0))
    return np.float32(np.maximum(values.std(axis=0, ddof=1), floor))
