"""MNIST and FashionMNIST: one IDX file of images and one of labels."""

import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ecood.data.archives.examples import Examples, from_arrays
from ecood.words import number_of

__all__ = ["read"]


def read(split: str, paths: Sequence[Path]) -> Examples:
    """The examples of a split, which the files are of."""
    del split
    images, labels = map(_idx, paths)
    return from_arrays(images[..., None], {"label": labels})


def _idx(path: Path) -> np.ndarray:
    """The array of an IDX file: two zeros, 8 for uint8, the rank, the shape, the values."""
    with gzip.open(path) as file:
        data = file.read()
    if data[:3] != b"\0\0\x08":
        raise ValueError("it is no IDX file of bytes")
    start = 4 + 4 * data[3]
    shape = np.frombuffer(data[4:start], ">u4").tolist()
    if len(data) != start + math.prod(shape):
        raise ValueError(f"it has {number_of(len(data) - start, 'value')} for the shape {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
