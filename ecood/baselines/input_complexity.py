"""Input complexity: likelihood against what a general-purpose compressor needs for the image."""

from typing import Any

import jax
import numpy as np

from ecood.baselines.codecs import complexity
from ecood.baselines.statistics import bits
from ecood.detector import Detector
from ecood.flows import Flow

__all__ = ["input_complexity"]


def input_complexity(flow: Flow) -> Detector:
    """-log2 p(x) - min L(x) in bits/dim, L over PNG, JPEG 2000 and JPEG XL, all lossless.

    The codecs run on the host (`Detector.prepare`); the rest is one compiled program. JPEG XL
    stands in for the paper's FLIF, which it has superseded.

    Source: Serrà et al. 2020, "Input Complexity and Out-of-distribution Detection with
    Likelihood-based Generative Models", equation 1 and section 4.
    """

    def fit(key: jax.Array, id_images: np.ndarray) -> Any:
        del key, id_images
        return flow.variables

    def score(state: Any, key: jax.Array, seen: tuple[jax.Array, jax.Array]) -> jax.Array:
        images, length = seen
        return bits(flow, state, key, images) - length

    return Detector(fit, score, complexity)
