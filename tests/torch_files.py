"""Writes files as `torch.save` does, without PyTorch: a pickle beside the storages in a zip."""

import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


def write(path: pathlib.Path, tree: Any) -> pathlib.Path:
    """A tree of dicts, arrays and what Python pickles."""
    storages: list[np.ndarray] = []
    pickled = b"\x80\x02" + _pickled(tree, storages) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        for key, storage in enumerate(storages):
            archive.writestr(f"archive/data/{key}", storage.tobytes())
    return path


def _pickled(tree: Any, storages: list[np.ndarray]) -> bytes:
    """The opcodes that leave `tree` on the stack."""
    if isinstance(tree, Mapping):
        items = [_plain(k) + _pickled(v, storages) + b"s" for k, v in tree.items()]
        return b"}" + b"".join(items)
    if not isinstance(tree, np.ndarray):
        return _plain(tree)
    key = str(len(storages))
    storages.append(tree)
    kind = b"ctorch\n" + STORAGES[tree.dtype.name].encode() + b"\n"
    storage = _plain("storage") + kind + b"".join(map(_plain, (key, "cpu", tree.size)))
    strides = tuple(stride // tree.itemsize for stride in tree.strides)
    rest = b"".join(map(_plain, (0, tree.shape, strides, False, {})))
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + rest + b"tR"


def _plain(value: Any) -> bytes:
    if isinstance(value, str):
        encoded = value.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    return pickle.dumps(value, protocol=2)[2:-1]
