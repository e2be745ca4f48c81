"""The memory bank: embeddings of ID images, and the similarity to the nearest one.

A bank is an array [N, d] of unit-norm embeddings, in a dtype of `STORAGE`, on one
device or shared out over many (`shard`); or `Compressed`, with fewer rows or fewer bits
and the guarantee that follows. All of them can be searched and saved.
"""

import jax

from ecood.memory.build import STORAGE, build, unit_norm
from ecood.memory.compress import Compressed, compress
from ecood.memory.files import load, save
from ecood.memory.search import nearest_similarity, shard

Bank = jax.Array | Compressed

__all__ = [
    "STORAGE",
    "Bank",
    "Compressed",
    "build",
    "compress",
    "load",
    "nearest_similarity",
    "save",
    "shard",
    "unit_norm",
]
