"""What every archive is read as: the examples of a split, one at a time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ecood.words import number_of

__all__ = ["Archives", "Examples", "from_arrays"]

NONE: Mapping[str, Any] = MappingProxyType({})


class Examples(NamedTuple):
    """The examples of a split, in the archive's order."""

    keys: Sequence[int | str]  # TFDS's, which make the order of the prepared data
    get: Callable[[int], dict[str, Any]]  # the i-th's features; its image uint8 [H, W, C] or bytes
    classes: Mapping[str, Sequence[str]] = NONE  # by feature, if the archive names them


class Archives(NamedTuple):
    """Where a data set's examples are."""

    files: Mapping[str, tuple[str, ...]]  # by split, the names of its archives
    read: Callable[[str, Sequence[Path]], Examples]  # of a split, from those archives


def from_arrays(
    images: np.ndarray,
    columns: Mapping[str, np.ndarray],
    name: str | None = None,
    classes: Mapping[str, Sequence[str]] = NONE,
) -> Examples:
    """Examples of images, uint8 [N, H, W, C], and of whole numbers [N] by feature.

    `name` is the format of the feature `id`, of an index; None if there is no such feature.
    """
    for feature, column in columns.items():
        if len(column) != len(images):
            raise ValueError(
                f"it has {number_of(len(images), 'image')}, but {len(column)} of {feature}"
            )

    def get(i: int) -> dict[str, Any]:
        example = {feature: int(column[i]) for feature, column in columns.items()}
        return example | {"image": images[i]} | ({} if name is None else {"id": name.format(i)})

    return Examples(range(len(images)), get, classes)
