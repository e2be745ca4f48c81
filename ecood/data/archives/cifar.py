"""CIFAR-10 and CIFAR-100: the binary archives, and the Python ones, of the same images.

In a binary archive a row is a byte per label and 3072 of pixels, channel by channel. In a
Python one a batch is a pickled dict with the same bytes as an array; it is read without
executing anything: a pickle may name arrays and nothing else.
"""

import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ecood.data.archives.examples import Examples, from_arrays

__all__ = ["CIFAR10", "CIFAR100", "Layout", "read"]

Open = Callable[[str], BinaryIO]  # a member of an archive, by its name without folders


class Layout(NamedTuple):
    """The members of an archive, and the labels of a row in their order."""

    batches: dict[str, list[str]]  # by split; in a binary archive with .bin at the end
    meta: str  # the pickle with the names of classes
    names: dict[str, str]  # by label, the text file with the names of its classes
    keys: dict[str, tuple[bytes, bytes]]  # by label, keys of a batch's labels and meta's names


CIFAR10 = Layout(
    {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    "batches.meta",
    {"label": "batches.meta.txt"},
    {"label": (b"labels", b"label_names")},
)
CIFAR100 = Layout(
    {"train": ["train"], "test": ["test"]},
    "meta",
    {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
    {
        "coarse_label": (b"coarse_labels", b"coarse_label_names"),
        "label": (b"fine_labels", b"fine_label_names"),
    },
)


def read(layout: Layout, split: str, paths: Sequence[Path]) -> Examples:
    """The examples of a split; which of the two archives it is, the file's name says."""
    (path,) = paths
    with tarfile.open(path) as archive:
        members = {PurePosixPath(each.name).name: each for each in archive if each.isfile()}

        def opened(name: str) -> BinaryIO:
            if name not in members:
                raise ValueError(f"it holds no {name}")
            return archive.extractfile(members[name])

        kind = _pickled if path.name.endswith("python.tar.gz") else _binary
        pixels, columns, classes = kind(layout, split, opened)
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return from_arrays(images, columns, f"{split}_{{:05d}}", classes)


def _binary(layout: Layout, split: str, opened: Open) -> tuple[np.ndarray, dict, dict]:
    labels = list(layout.names)
    data = b"".join(opened(f"{batch}.bin").read() for batch in layout.batches[split])
    rows = np.frombuffer(data, np.uint8).reshape(-1, len(labels) + 3 * 32 * 32)
    classes = {k: opened(name).read().decode().split() for k, name in layout.names.items()}
    return rows[:, len(labels) :], {k: rows[:, i] for i, k in enumerate(labels)}, classes


def _pickled(layout: Layout, split: str, opened: Open) -> tuple[np.ndarray, dict, dict]:
    batches = [_unpickle(opened(name)) for name in layout.batches[split]]
    meta = _unpickle(opened(layout.meta))
    pixels = np.concatenate([np.asarray(batch[b"data"], np.uint8) for batch in batches])
    columns, classes = {}, {}
    for label, (values, names) in layout.keys.items():
        columns[label] = np.concatenate([batch[values] for batch in batches])
        classes[label] = [name.decode() for name in meta[names]]
    return pixels, columns, classes


RECONSTRUCT = [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]


class _Unpickler(pickle.Unpickler):
    """Makes NumPy's arrays; any other name is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) in RECONSTRUCT:
            return np._core.multiarray._reconstruct
        raise ValueError(f"it names {module}.{name}, and nothing in a pickle is executed")


def _unpickle(file: BinaryIO) -> Any:
    return _Unpickler(file, encoding="bytes").load()
