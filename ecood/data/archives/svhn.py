"""SVHN, cropped: MATLAB files of images [H, W, C, N] and labels 1 to 10, where 10 is a 0."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io

from ecood.data.archives.examples import Examples, from_arrays

__all__ = ["read"]


def read(split: str, paths: Sequence[Path]) -> Examples:
    """The examples of a split."""
    (path,) = paths
    found = scipy.io.loadmat(path, variable_names=["X", "y"])
    images, labels = np.moveaxis(found["X"], -1, 0), found["y"].ravel()
    if len(labels) and not 1 <= labels.min() <= labels.max() <= 10:
        raise ValueError("it has labels that are not 1 to 10")
    return from_arrays(images, {"label": labels % 10}, f"{split}_{{:06d}}")
