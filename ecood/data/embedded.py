"""The pair in the package, FashionMNIST and MNIST: see `embedded/README.md`."""

import io
import lzma
from importlib import resources

import numpy as np

from ecood.errors import InputError

__all__ = ["NAMES", "load_images", "load_labels"]

NAMES = ("fashion_mnist", "mnist")  # ID, OOD
SPLITS = ("train", "test")


def load_images(name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split, uint8 [N, 28, 28, 1]; see `ecood.data.Source`."""
    return _read(name, split, "")[:limit, ..., None]


def load_labels(name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The labels that go with them, the classes 0 to 9, int64 [N]."""
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
