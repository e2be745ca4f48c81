"""Similarity: an image is odd that is unlike every image of the memory bank."""

from typing import NamedTuple

import jax

from ecood import memory, statistics
from ecood.detector import Detector, Scored
from ecood.encoders import Encoder
from ecood.splits import Split, check_split

__all__ = ["SimilarityState", "similarity"]


class SimilarityState(NamedTuple):
    """The encoder and the memory bank."""

    encoder: Encoder
    bank: memory.Bank


def similarity(encoder: Encoder) -> Detector:
    """-s(x), no flow: the ranking that `ecood.score.spem_paper` tends to as lambda grows."""

    def fit(key: jax.Array, split: Split) -> SimilarityState:
        del key
        return SimilarityState(encoder, memory.build(encoder, check_split(split).train))

    return Detector(fit, _detect)


def _detect(state: SimilarityState, key: jax.Array, images: jax.Array) -> Scored:
    del key
    return Scored(-statistics.similarity(state.encoder, state.bank, images))
