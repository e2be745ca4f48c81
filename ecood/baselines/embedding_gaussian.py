"""A Gaussian over embeddings: how far is the image from the mean one, direction by direction?"""

from typing import NamedTuple

import jax
import numpy as np

from ecood import memory
from ecood.baselines.gaussian import Gaussian, fit_shrunk_gaussian, negative_log_density
from ecood.detector import Detector, Scored
from ecood.encoders import Encoder
from ecood.splits import Split, check_split
from ecood.statistics import embedded, finite

__all__ = ["EmbeddingGaussianState", "embedding_gaussian"]


class EmbeddingGaussianState(NamedTuple):
    """The encoder, and the Gaussian of its embeddings of ID images."""

    encoder: Encoder
    gaussian: Gaussian


def embedding_gaussian(encoder: Encoder) -> Detector:
    """-log N(e(x); mean, covariance) in nats, e(x) the embedding at norm 1, no flow.

    It ranks as the Mahalanobis distance. Where the paper has a mean for each class, there are no
    labels here: one mean, and a covariance that Ledoit and Wolf's rule shrinks, of the embeddings
    that SPEM's memory bank holds.

    Source: Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples
    and Adversarial Attacks", section 2.1, with one class.
    """

    def fit(key: jax.Array, split: Split) -> EmbeddingGaussianState:
        del key
        bank = memory.build(encoder, check_split(split, encoder).train)
        return EmbeddingGaussianState(encoder, fit_shrunk_gaussian(np.asarray(bank)))

    return Detector(fit, _detect)


def _detect(state: EmbeddingGaussianState, key: jax.Array, images: jax.Array) -> Scored:
    del key
    embeddings = embedded(state.encoder, images)
    return Scored(finite(negative_log_density(state.gaussian, embeddings)))
