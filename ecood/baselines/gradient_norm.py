"""Approximate mass: how steep is the density at the image?"""

from typing import Any

import jax
import numpy as np

from ecood.baselines.gradients import log_norm, of_image
from ecood.baselines.statistics import finite
from ecood.detector import Detector
from ecood.flows import Flow

__all__ = ["gradient_norm"]


def gradient_norm(flow: Flow) -> Detector:
    """log |grad_x log p(x)|, log p in nats, x in units of the pixel range.

    A point of high density but little mass is where the density changes fast around it. The
    logarithm changes no ranking and keeps exploding gradients in range.

    Source: Grathwohl et al. 2020, "Your Classifier is Secretly an Energy Based Model and You
    Should Treat it Like One", section 5.3, where the score is minus this norm.
    """

    def fit(key: jax.Array, id_images: np.ndarray) -> Any:
        del key, id_images
        return flow.variables

    def score(state: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        return finite(log_norm(of_image(flow, state, key, images), (1, 2, 3)))

    return Detector(fit, score)
