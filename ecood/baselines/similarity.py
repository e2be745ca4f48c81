"""Similarity: an image is odd that is unlike every image of the memory bank."""

import flax.struct
import jax

from ecood import memory, statistics
from ecood.detector import Detector, Scored
from ecood.encoders import Encoder
from ecood.errors import check_whole
from ecood.splits import Split, check_split

__all__ = ["SimilarityState", "similarity"]


@flax.struct.dataclass
class SimilarityState:
    """The encoder, the memory bank and k, which is static."""

    encoder: Encoder
    bank: memory.Bank
    neighbours: int = flax.struct.field(pytree_node=False, default=1)


def similarity(encoder: Encoder, neighbours: int = 1) -> Detector:
    """-s(x), no flow; s is the mean cosine similarity to the k most similar ID images.

    With one neighbour it is the ranking that `ecood.score.spem_paper` tends to as lambda grows.
    k, `neighbours`, is cut to the size of the bank. The paper's score is the distance to the k-th
    neighbour; the mean of all k varies less from one bank to another. An InputError for k < 1.

    Source: Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors".
    """
    check_whole("neighbours", neighbours)

    def fit(key: jax.Array, split: Split) -> SimilarityState:
        del key
        bank = memory.build(encoder, check_split(split, encoder).train)
        return SimilarityState(encoder, bank, neighbours)

    return Detector(fit, _detect)


def _detect(state: SimilarityState, key: jax.Array, images: jax.Array) -> Scored:
    del key
    s = statistics.similarity(state.encoder, state.bank, images, state.neighbours)
    return Scored(-s)
