"""Approximate mass: how steep is the density at the image?"""

import jax

from ecood.baselines.gradients import log_norm, of_image
from ecood.detector import Detector, Scored
from ecood.flows import Flow
from ecood.splits import Split
from ecood.statistics import finite

__all__ = ["gradient_norm"]


def gradient_norm(flow: Flow) -> Detector:
    """log |grad_x log p(x)|, log p in nats, x in units of the pixel range.

    A point of high density but little mass is where the density changes fast around it. The
    logarithm changes no ranking and keeps exploding gradients in range.

    Source: Grathwohl et al. 2020, "Your Classifier is Secretly an Energy Based Model and You
    Should Treat it Like One", section 5.3, where the score is minus this norm.
    """

    def fit(key: jax.Array, split: Split) -> Flow:
        del key, split
        return flow

    return Detector(fit, _detect)


def _detect(flow: Flow, key: jax.Array, images: jax.Array) -> Scored:
    return Scored(finite(log_norm(of_image(flow, key, images), (1, 2, 3))))
