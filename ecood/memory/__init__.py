"""The memory bank: embeddings of ID images, and the similarity to the nearest one.

A bank is an array [N, d] of unit-norm embeddings, in a dtype of `STORAGE`, maybe shared
out over devices (`shard`); or `Compressed`, with fewer rows or bits and a guarantee.
"""

import jax

from ecood.memory.bank import (
    STORAGE,
    Compressed,
    build,
    compress,
    load,
    save,
    unit_norm,
)
from ecood.memory.mapped import nearest_similarity_mapped, open_bank
from ecood.memory.search import (
    nearest,
    nearest_similarities,
    nearest_similarity,
    shard,
)

Bank = jax.Array | Compressed

__all__ = [
    "STORAGE",
    "Bank",
    "Compressed",
    "build",
    "compress",
    "load",
    "nearest",
    "nearest_similarities",
    "nearest_similarity",
    "nearest_similarity_mapped",
    "open_bank",
    "save",
    "shard",
    "unit_norm",
]
