"""Last level: the likelihood of an image's coarse structure, less all that is local."""

import jax

from ecood.detector import Detector, Scored, already_fitted
from ecood.flows import Flow
from ecood.statistics import last_level_bits

__all__ = ["last_level"]


def last_level(flow: Flow) -> Detector:
    """-log p_L(x) in bits/dim, what the last level of the flow adds to -log p(x).

    That is the density of the last level's latent and the log-determinant of its steps. Colours and
    textures are coded at the levels before it. The flow is a Glow; one that is a plain function
    has one level.

    Source: Schirrmeister et al. 2020, "Understanding Anomaly Detection with Deep Invertible
    Networks through Hierarchies of Distributions and Features", for images without a general flow.
    """
    return Detector(already_fitted(flow), _detect)


def _detect(flow: Flow, key: jax.Array, images: jax.Array) -> Scored:
    return Scored(last_level_bits(flow, key, images))
