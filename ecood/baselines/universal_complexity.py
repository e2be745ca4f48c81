"""Universal complexity: likelihood against a lossless code that adapts, in the graph."""

import jax

from ecood.baselines.input_complexity import ComplexityScored
from ecood.code_length import code_length
from ecood.detector import Detector, already_fitted
from ecood.flows import Flow
from ecood.statistics import bits

__all__ = ["universal_complexity"]


def universal_complexity(flow: Flow) -> Detector:
    """-log2 p(x) - L(x) in bits/dim, L the length in `ecood.code_length`'s universal code.

    It is `input_complexity` without host and headers: one program for any device, for any size and
    number of channels. Its mean over images of one kind is a lower bound of how far that kind is
    from p in bits/dim, since no code is on average shorter than the entropy.

    Source: Serrà et al. 2020, "Input Complexity and Out-of-distribution Detection with
    Likelihood-based Generative Models", equation 1, with another code.
    """
    return Detector(already_fitted(flow), _detect)


def _detect(flow: Flow, key: jax.Array, images: jax.Array) -> ComplexityScored:
    cost, length = bits(flow, key, images), code_length(images)
    return ComplexityScored(cost - length, cost, length)
