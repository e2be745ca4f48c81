"""WAIC: the likelihood of an ensemble, less what its members disagree about."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ecood.detector import Detector, already_fitted
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.statistics import UNIFORM_BITS, bits, finite
from ecood.words import number_of

__all__ = ["WAICScored", "waic"]


class WAICScored(NamedTuple):
    """The score and its terms, mean and variance of -log p over the members; nats, float32 [B]."""

    score: jax.Array
    mean: jax.Array
    variance: jax.Array


def waic(*flows: Flow) -> Detector:
    """-E_m[log p_m(x)] + Var_m[log p_m(x)] in nats, over the members m of an ensemble.

    The members are two flows or more, trained on the same images, as long and in the
    same precision, from different seeds; an InputError for fewer. Of members that are
    not equally good the variance tells how they were trained, not what they disagree
    about. Log-densities are those of the whole image, and the
    variance is the mean squared deviation, as in the paper. Guarded bits/dim are turned
    back into nats, so that the variance is finite.

    Source: Choi et al. 2018, "WAIC, but Why? Generative Ensembles for Robust Anomaly
    Detection", equation 2.
    """
    if len(flows) < 2:
        raise InputError(
            f"{number_of(len(flows), 'flow was', 'flows were')} given; expected an ensemble of two "
            "or more, trained from different seeds."
        )
    return Detector(already_fitted(flows), _detect)


def _detect(members: tuple[Flow, ...], key: jax.Array, images: jax.Array) -> WAICScored:
    costs = jnp.stack([bits(flow, key, images) for flow in members])
    nats = (costs - UNIFORM_BITS) * (math.prod(images.shape[1:]) * math.log(2.0))
    mean, variance = jnp.mean(nats, axis=0), jnp.var(nats, axis=0)
    return WAICScored(finite(mean + variance), mean, variance)
