"""Input complexity: likelihood against what a general-purpose compressor needs for the image."""

from typing import NamedTuple

import jax

from ecood.baselines.codecs import complexity
from ecood.detector import Detector, already_fitted
from ecood.flows import Flow
from ecood.statistics import bits

__all__ = ["ComplexityScored", "input_complexity"]


class ComplexityScored(NamedTuple):
    """The score and its two terms, bits/dim, float32 [B] each."""

    score: jax.Array
    bits: jax.Array
    code_length: jax.Array


def input_complexity(flow: Flow) -> Detector:
    """-log2 p(x) - min L(x) in bits/dim, L over PNG, JPEG 2000 and JPEG XL, all lossless.

    JPEG XL stands in for the paper's FLIF, which it has superseded.

    Source: Serrà et al. 2020, "Input Complexity and Out-of-distribution Detection with
    Likelihood-based Generative Models", equation 1 and section 4.
    """
    return Detector(already_fitted(flow), _detect, complexity)


def _detect(flow: Flow, key: jax.Array, given: tuple[jax.Array, jax.Array]) -> ComplexityScored:
    images, length = given
    cost = bits(flow, key, images)
    return ComplexityScored(cost - length, cost, length)
