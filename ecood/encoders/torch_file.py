"""The tensors of a PyTorch file, without PyTorch or running any code in the file.

A `.pth` is a pickle, and unpickling calls whatever the pickle names. Here it can name
an ordered dict, a tensor and a storage type; any other name is refused before it is
looked up. Both the zip archive of `torch.save` since 1.6 and the older sequence of
pickles are read.
"""

import collections
import io
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ecood.errors import InputError

__all__ = ["read_tensors"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

STORAGES = "Double Float Half BFloat16 Long Int Short Char Byte Bool"
DTYPES = "f8 f4 f2 bfloat16 i8 i4 i2 i1 u1 bool"


class _Refused(Exception):
    """What is wrong with the file, as the second half of a sentence."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


Contents = tuple[Any, Callable[[_Storage], memoryview]]  # the unpickled tree, and its storages

_NAMES = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda *found: _Tensor(*found[:4]),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}
for _name, _dtype in zip(STORAGES.split(), DTYPES.split(), strict=True):
    _NAMES["torch", f"{_name}Storage"] = jnp.dtype(_dtype)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        raise _Refused(f"names {module}.{name}, which is neither a tensor nor an ordered dict")

    def persistent_load(self, reference: Any) -> _Storage:
        kind, dtype, key, _, size, *view = reference
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise _Refused("refers to something other than a plain storage")
        return _Storage(str(key), dtype, int(size))


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """A state dict that `torch.save` wrote: the arrays by name, in the file's order.

    Raises `InputError` if it is missing, damaged or names anything but tensors.
    """
    path = pathlib.Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected a PyTorch file there."
        ) from error
    try:
        read = _read_archive if zipfile.is_zipfile(io.BytesIO(data)) else _read_legacy
        tree, storage_bytes = read(data)
        if not isinstance(tree, dict):
            raise _Refused("holds no dict of tensors")
        return {name: _array(name, tensor, storage_bytes) for name, tensor in tree.items()}
    except _Refused as error:
        raise InputError(
            f"{path} {error}; expected a PyTorch file with a dict of tensors and nothing else."
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(
            f"{path} is damaged or incomplete ({type(error).__name__}: {error}); "
            "copy or download it again."
        ) from error


def _array(name: Any, tensor: Any, storage_bytes: Callable[[_Storage], memoryview]) -> np.ndarray:
    if not isinstance(name, str):
        raise _Refused(f"has a key that is no string but {type(name).__name__}")
    if not isinstance(tensor, _Tensor):
        raise _Refused(f"holds a {type(tensor).__name__} among its tensors")
    storage, offset, shape, strides = tensor
    flat = np.frombuffer(storage_bytes(storage), storage.dtype, storage.size)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    # The view below is unchecked memory access, so its bounds are checked here.
    if min((offset, *shape, *strides)) < 0 or last >= storage.size:
        raise _Refused("has a tensor that reaches outside its storage")
    byte_strides = [storage.dtype.itemsize * stride for stride in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, byte_strides).copy()


def _read_archive(data: bytes) -> Contents:
    archive = zipfile.ZipFile(io.BytesIO(data))
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    root = pickled.removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise _Refused("was written in big-endian byte order")
    tree = _Unpickler(io.BytesIO(archive.read(pickled))).load()
    return tree, lambda storage: memoryview(archive.read(f"{root}data/{storage.key}"))


def _read_legacy(data: bytes) -> Contents:
    file = io.BytesIO(data)
    magic, _, system = (_Unpickler(file).load() for _ in range(3))
    if magic != LEGACY_MAGIC:
        raise _Refused("is not a PyTorch file")
    if not system["little_endian"]:
        raise _Refused("was written in big-endian byte order")
    tree, keys = _Unpickler(file).load(), _Unpickler(file).load()
    tensors = tree.values() if isinstance(tree, dict) else []
    dtypes = {t.storage.key: t.storage.dtype for t in tensors if isinstance(t, _Tensor)}
    # The storages follow one another in the order of `keys`: a count, then so many elements.
    found, start = {}, file.tell()
    for key in keys:
        if key not in dtypes:
            raise _Refused("stores an array that no tensor uses")
        (count,) = struct.unpack_from("<q", data, start)
        start, stop = start + 8, start + 8 + count * dtypes[key].itemsize
        if stop > len(data):
            raise _Refused("ends in the middle of a tensor")
        found[key] = memoryview(data)[start:stop]
        start = stop
    return tree, lambda storage: found[storage.key]
