"""Likelihood: an image is odd that the density finds improbable. The paradox is its failure."""

import jax

from ecood.detector import Detector, Scored, already_fitted
from ecood.flows import Flow
from ecood.statistics import bits

__all__ = ["likelihood"]


def likelihood(flow: Flow) -> Detector:
    """-log p(x) in bits/dim, no perturbation: `ecood.score.spem_paper` at lambda = 0.

    Source: Bishop 1994, "Novelty detection and neural network validation".
    """
    return Detector(already_fitted(flow), _detect)


def _detect(flow: Flow, key: jax.Array, images: jax.Array) -> Scored:
    return Scored(bits(flow, key, images))
