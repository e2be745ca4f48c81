"""The real pair that comes with the package: FashionMNIST (ID) and MNIST (OOD).

What the files hold, how they were made and under which licences: `embedded/README.md`.
"""

import io
import lzma
from importlib import resources

import numpy as np

from ecood.errors import InputError

__all__ = ["ID_NAME", "NAMES", "OOD_NAME", "load_images", "load_labels"]

ID_NAME = "fashion_mnist"
OOD_NAME = "mnist"
NAMES = (ID_NAME, OOD_NAME)
SPLITS = ("train", "test")


def load_images(name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split.

    Args:
      name: "fashion_mnist" or "mnist".
      split: "train" or "test".
      limit: how many images at most; all if None.

    Returns:
      uint8 [N, 28, 28, 1].

    Raises:
      InputError: if the package does not ship this data set or split.
    """
    return _read(name, split, "")[:limit, ..., None]


def load_labels(name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The labels of one split.

    Args:
      name: "fashion_mnist" or "mnist".
      split: "train" or "test".
      limit: how many labels at most; all if None.

    Returns:
      int64 [N], the classes 0 to 9.

    Raises:
      InputError: if the package does not ship this data set or split.
    """
    return _read(name, split, "_labels")[:limit].astype(np.int64)


def _read(name: str, split: str, kind: str) -> np.ndarray:
    if name not in NAMES or split not in SPLITS:
        raise InputError(
            f"the embedded data hold no {name}, split {split}; expected one of "
            f"{', '.join(NAMES)} and one of {', '.join(SPLITS)}: name a TFDS directory, a folder "
            "or an array file for other images."
        )
    file = resources.files("ecood.data") / "embedded" / f"{name}_{split}{kind}.npy.xz"
    return np.load(io.BytesIO(lzma.decompress(file.read_bytes())), allow_pickle=False)
