"""Reads PyTorch files without PyTorch, and without running any code in the file.

A `.pth` is a pickle, and unpickling calls whatever the pickle names. Here it can call an ordered
dict, a tensor and a storage type, all of them defined below. `read_tensors` refuses any other name
before it is looked up. `read`, for whole modules, adds a few harmless ones, and puts an inert
stand-in in the place of any other class, which keeps the attributes of the object and cannot be
called. Both formats are read: the zip archive of `torch.save` since 1.6, and the older sequence of
pickles.
"""

import collections
import dataclasses
import io
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ecood.errors import InputError, check_regular

__all__ = ["StandIn", "Tensor", "read", "read_tensors"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

STORAGES = "Double Float Half BFloat16 Long Int Short Char Byte Bool"
DTYPES = "f8 f4 f2 bfloat16 i8 i4 i2 i1 u1 bool"


class _Refused(Exception):
    """What is wrong with the file, as the second half of a sentence."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int
    find: Callable[["_Storage"], memoryview]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a file keeps a tensor; `array` reads it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    def array(self) -> np.ndarray:
        """The tensor, copied out of the file."""
        storage, offset, shape, strides = self.storage, self.offset, self.shape, self.strides
        flat = np.frombuffer(storage.find(storage), storage.dtype, storage.size)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if 0 in shape:
            return np.zeros(shape, storage.dtype)
        # The view below is unchecked memory access, so its bounds are checked here.
        if min((offset, *shape, *strides)) < 0 or last >= storage.size:
            raise _Refused("has a tensor that reaches outside its storage")
        byte_strides = [storage.dtype.itemsize * stride for stride in strides]
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, byte_strides).copy()


class _Uncallable(type):
    def __call__(cls, *_: Any) -> Any:
        raise _Refused(f"calls {cls.stands_for}, and nothing in a file is executed")


class StandIn(metaclass=_Uncallable):
    """An object of a class that is not looked up: its attributes, and no behaviour."""

    stands_for = "an unknown class"

    def __new__(cls, *_: Any) -> "StandIn":  # noqa: D102
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, Mapping):
            raise _Refused(f"has a {self.stands_for} whose state is no dict")
        self.__dict__.update(state)


_NAMES = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda *found: Tensor(*found[:4]),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}
for _name, _dtype in zip(STORAGES.split(), DTYPES.split(), strict=True):
    for _module in ("torch", "torch.cuda"):
        _NAMES[_module, f"{_name}Storage"] = jnp.dtype(_dtype)

# What modules that were saved whole call beside, and what stands for it.
_HARMLESS = {
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch", "Size"): tuple,
    ("torch.nn.backends.thnn", "_get_thnn_function_backend"): lambda: None,  # before PyTorch 1.3
}


class _Unpickler(pickle.Unpickler):
    """Unpickles names it knows.

    `find` gives the bytes of a storage; those that the pickle refers to are collected in `dtypes`.
    """

    def __init__(self, file: io.BytesIO, *, stand_ins: bool, find: Any = None):
        super().__init__(file)
        self.stand_ins, self.find, self.dtypes = stand_ins, find, {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        if not self.stand_ins:
            raise _Refused(f"names {module}.{name}, which is neither a tensor nor an ordered dict")
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        return _Uncallable(name, (StandIn,), {"stands_for": f"{module}.{name}"})

    def persistent_load(self, reference: Any) -> Any:
        if self.stand_ins and reference[0] == "module":  # and its source, in the older format
            return reference[1]
        kind, dtype, key, _, size, *view = reference
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise _Refused("refers to something other than a plain storage")
        self.dtypes[str(key)] = dtype
        return _Storage(str(key), dtype, int(size), self.find)


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a state dict that `torch.save` wrote: the arrays by name, in the file's order.

    Raises:
      InputError: if the file is missing, damaged, holds anything but a dict of tensors, or names
        anything to be executed.
    """
    expected = "a PyTorch file with a dict of tensors and nothing else"
    return _read(path, expected, stand_ins=False, take=_arrays)


def read(path: str | os.PathLike, take: Callable[[Any], Any]) -> Any:
    """Reads any tree of objects that `torch.save` wrote: `take(tree)`.

    Args:
      path: of the file.
      take: what is wanted of the tree, whose tensors are `Tensor`s and whose objects of classes
        that are not built in are `StandIn`s.

    Raises:
      InputError: if the file is missing or damaged, or calls anything. What `take` raises as an
        `InputError` goes through.
    """
    expected = "a PyTorch file with dicts, lists, tensors and objects with attributes"
    return _read(path, expected, stand_ins=True, take=take)


def _arrays(tree: Any) -> dict[str, np.ndarray]:
    if not isinstance(tree, dict):
        raise _Refused("holds no dict of tensors")
    for name, tensor in tree.items():
        if not isinstance(name, str):
            raise _Refused(f"has a key that is no string but {type(name).__name__}")
        if not isinstance(tensor, Tensor):
            raise _Refused(f"holds a {type(tensor).__name__} among its tensors")
    return {name: tensor.array() for name, tensor in tree.items()}


def _read(
    path: str | os.PathLike, expected: str, *, stand_ins: bool, take: Callable[[Any], Any]
) -> Any:
    path = pathlib.Path(path)
    check_regular(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected a PyTorch file there."
        ) from error
    try:
        unpickle = _read_archive if zipfile.is_zipfile(io.BytesIO(data)) else _read_legacy
        return take(unpickle(data, stand_ins))
    except InputError:
        raise
    except _Refused as error:
        raise InputError(f"{path} {error}; expected {expected}.") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(
            f"{path} is damaged or incomplete ({type(error).__name__}: {error}); "
            "copy or download it again."
        ) from error


def _read_archive(data: bytes, stand_ins: bool) -> Any:
    archive = zipfile.ZipFile(io.BytesIO(data))
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    root = pickled.removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise _Refused("was written in big-endian byte order")

    def find(storage: _Storage) -> memoryview:
        return memoryview(archive.read(f"{root}data/{storage.key}"))

    file = io.BytesIO(archive.read(pickled))
    return _Unpickler(file, stand_ins=stand_ins, find=find).load()


def _read_legacy(data: bytes, stand_ins: bool) -> Any:
    file, storages = io.BytesIO(data), {}
    magic, _, system = (_Unpickler(file, stand_ins=False).load() for _ in range(3))
    if magic != LEGACY_MAGIC:
        raise _Refused("is not a PyTorch file")
    if not system["little_endian"]:
        raise _Refused("was written in big-endian byte order")
    unpickler = _Unpickler(file, stand_ins=stand_ins, find=lambda storage: storages[storage.key])
    tree, dtypes = unpickler.load(), unpickler.dtypes
    keys = _Unpickler(file, stand_ins=False).load()
    # The storages follow one another in the order of `keys`: a count, then so many elements.
    start = file.tell()
    for key in keys:
        if key not in dtypes:
            raise _Refused("stores an array that no tensor uses")
        (count,) = struct.unpack_from("<q", data, start)
        start, stop = start + 8, start + 8 + count * dtypes[key].itemsize
        if stop > len(data):
            raise _Refused("ends in the middle of a tensor")
        storages[key] = memoryview(data)[start:stop]
        start = stop
    return tree
