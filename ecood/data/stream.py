"""Images one at a time, from folders, files, arrays and lists of paths, in bounded memory.

| path | what it gives |
| --- | --- |
| a folder | the image files in it, at any depth, in the order of their names; links are followed |
| an image file | that image |
| an `.npy` file | the images of its array, uint8 [N, H, W, C] or [N, H, W] |
| an `.npz` file | the images of the array under the given key, or of the only one of images |
| `-` | what the paths on standard input give, one a line |

What is wrong with a path that was asked for stops the reading; what is wrong with one image of
many, or with one line of standard input, is told and passed over.
"""

import os
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ecood.data.arrays import SUFFIXES as ARRAYS
from ecood.data.arrays import UNREADABLE, check_members
from ecood.data.decode import decode_file
from ecood.data.folder import SUFFIXES as IMAGES
from ecood.data.folder import image_files
from ecood.errors import InputError
from ecood.images import check_images

__all__ = ["Item", "check", "conform", "count", "read"]

STDIN = "-"
CHUNK = 2**22  # bytes of an array that are read at once


class Item(NamedTuple):
    """One image, or why there is none.

    Attributes:
      path: the file that it is in.
      index: which image of that file, from 0.
      image: uint8 [H, W, C], or None.
      problem: one sentence if there is no image, else None.
      count: how many images it is, or the problem costs.
    """

    path: str
    index: int
    image: np.ndarray | None
    problem: str | None = None
    count: int = 1


def check(paths: Iterable[str], key: str | None = None) -> None:
    """Refuses paths that give no images, before any image is read.

    Args:
      paths: what to read; see the module.
      key: the key of the images in `.npz` files.

    Raises:
      InputError: for a path that does not exist or holds no images.
    """
    for path in paths:
        if path != STDIN:
            next(_sources(path, key)).close()


def count(paths: Iterable[str], key: str | None = None) -> int | None:
    """How many images `read` will give, damaged ones included; None for standard input."""
    paths = list(paths)
    if STDIN in paths:
        return None
    total = 0
    for path in paths:
        for source in _sources(path, key):
            total += source.count
            source.close()
    return total


def read(paths: Iterable[str], key: str | None = None) -> Iterator[Item]:
    """Reads images one after the other.

    Args:
      paths: what to read; see the module.
      key: the key of the images in `.npz` files.

    Yields:
      Every image, of whatever size, or the reason why it cannot be read.

    Raises:
      InputError: for a path that does not exist or holds no images.
    """
    for path in paths:
        if path == STDIN:
            yield from _listed(key)
        else:
            for source in _sources(path, key):
                yield from source.items()


def conform(image: np.ndarray, shape: tuple[int, int, int], resize: bool, what: str) -> np.ndarray:
    """The image in the shape that a model takes.

    The rule: grey becomes RGB by repetition, RGB becomes grey by ITU-R 601 luma; the whole image
    is resized, its aspect ratio not kept, by Pillow's bilinear filter, which averages over all
    pixels when it shrinks. An image that has the shape already is not touched.

    Args:
      image: uint8 [H, W, C], C = 1 or 3.
      shape: (H, W, C) to reach.
      resize: whether that rule may be used.
      what: the name of the image for the error message.

    Returns:
      uint8 of that shape.

    Raises:
      InputError: if the shape is another and the rule may not be used.
    """
    if image.shape == tuple(shape):
        return image
    if not resize:
        raise InputError(
            f"{what} has shape {list(image.shape)}, and the model takes {list(shape)}; resize and "
            "convert it as the in-distribution images were (--resize states a rule and does it)."
        )
    height, width, channels = shape
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(shape)


class _File(NamedTuple):
    """An image file."""

    path: str
    count: int = 1

    def items(self) -> Iterator[Item]:
        try:
            yield Item(self.path, 0, decode_file(self.path))
        except InputError as error:
            yield Item(self.path, 0, None, str(error))

    def close(self) -> None:
        """Nothing is open."""


class _Unreadable(NamedTuple):
    """A folder that cannot be read."""

    path: str
    reason: str
    count: int = 1

    def items(self) -> Iterator[Item]:
        yield Item(self.path, 0, None, f"the folder {self.path} cannot be read ({self.reason}).")

    def close(self) -> None:
        """Nothing is open."""


class _Array(NamedTuple):
    """An array in a file, of which rows are read as they are needed."""

    path: str
    file: BinaryIO
    count: int
    row: tuple[int, ...]
    dtype: np.dtype

    def items(self) -> Iterator[Item]:
        size = int(np.prod(self.row)) * self.dtype.itemsize
        at_once = max(1, CHUNK // size)
        index = 0
        with self.file:
            while index < self.count:
                wanted = min(at_once, self.count - index)
                arrived, failure = _up_to(self.file, wanted * size)
                whole = len(arrived) // size
                rows = np.frombuffer(arrived, self.dtype, whole * size // self.dtype.itemsize)
                for row in rows.reshape(whole, *self.row):
                    yield Item(self.path, index, row if row.ndim == 3 else row[..., None])
                    index += 1
                if whole < wanted:
                    problem = f"{self.path} is damaged from image {index} on ({failure}); "
                    lost = self.count - index
                    yield Item(self.path, index, None, problem + "save it again.", lost)
                    return

    def close(self) -> None:
        self.file.close()


def _listed(key: str | None) -> Iterator[Item]:
    for line in sys.stdin:
        path = line.rstrip("\r\n")
        if path:
            try:
                for source in _sources(path, key):
                    yield from source.items()
            except InputError as error:
                yield Item(path, 0, None, str(error))


def _sources(path: str, key: str | None) -> Iterator[_File | _Unreadable | _Array]:
    """What a path stands for; at least one source, or a refusal."""
    suffix = Path(path).suffix.lower()
    if os.path.isdir(path):
        yield from _folder(path)
    elif not os.path.isfile(path):
        raise InputError(
            f"{path} is not there; expected a folder of images, an image file, or an .npy or .npz "
            "file: check the path."
        )
    elif suffix in ARRAYS:
        yield _open_array(path, key)
    elif suffix in IMAGES:
        yield _File(path)
    else:
        raise InputError(
            f"{path} is no file of images; expected a folder, or a file ending in "
            f"{', '.join((*IMAGES, *ARRAYS))}."
        )


def _folder(path: str) -> Iterator[_File | _Unreadable]:
    errors: list[OSError] = []
    empty = True
    for file in image_files(path, errors.append):
        empty = False
        yield _File(file)
    for error in errors:
        if error.filename == path:
            raise InputError(f"the folder {path} cannot be read ({error.strerror}).") from error
        empty = False
        yield _Unreadable(error.filename, error.strerror)
    if empty:
        raise InputError(
            f"the folder {path} holds no images; expected files ending in {', '.join(IMAGES)}."
        )


def _open_array(path: str, key: str | None) -> _Array:
    try:
        if Path(path).suffix.lower() == ".npy":
            return _header(path, path, open(path, "rb"))
        with zipfile.ZipFile(path) as archive:
            member = _member(path, archive, key)
            # The handle of the member outlives that of the archive.
            return _header(path, f"{path}, key {member[:-4]},", archive.open(member))
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected plain arrays saved by numpy.save or "
            "numpy.savez: save the file again."
        ) from error


def _header(path: str, what: str, file: BinaryIO) -> _Array:
    """Reads an array's header, and checks it by the first row."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"its format {version} is unknown")
        shape, fortran, dtype = readers[version](file)
        if fortran:
            raise ValueError("its rows are not contiguous; save numpy.ascontiguousarray(images)")
        _check(what, shape, dtype)
        return _Array(path, file, shape[0], shape[1:], dtype)
    except BaseException:
        file.close()
        raise


def _check(what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype != np.uint8:
        raise InputError(
            f"{what} is {dtype}; expected uint8 [N, H, W, C] with pixel values 0 to 255: convert "
            "it and save it again."
        )
    try:
        check_images(np.broadcast_to(np.uint8(0), (*shape, 1) if len(shape) == 3 else shape))
    except InputError as error:
        raise InputError(f"{what} {error}") from error
    if len(shape) == 4 and shape[-1] not in (1, 3):
        raise InputError(
            f"{what} has shape {list(shape)}; expected [N, H, W, C] with 1 or 3 channels last: "
            "transpose channels-first images with images.transpose(0, 2, 3, 1)."
        )


def _member(path: str, archive: zipfile.ZipFile, key: str | None) -> str:
    check_members(path, archive.namelist())
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    keys = ", ".join(name[:-4] for name in names) or "(none)"
    if key is not None:
        if f"{key}.npy" not in names:
            raise InputError(f"{path} holds the keys {keys}; expected {key}: give one of them.")
        return f"{key}.npy"
    fitting = [name for name in names if _holds_images(archive, name)]
    if len(fitting) != 1:
        raise InputError(
            f"{path} holds the keys {keys}, of which {len(fitting)} may be images; say which one "
            "with --key."
        )
    return fitting[0]


def _holds_images(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        _header(name, name, archive.open(name)).close()
    except (InputError, ValueError):
        return False
    return True


def _up_to(file: Any, size: int) -> tuple[bytes, str]:
    """`size` bytes, or those that can be read and why there are no more."""
    parts, missing, failure = [], size, ""
    while missing and not failure:
        try:
            part = file.read1(missing)
            parts.append(part)
            missing -= len(part)
            failure = "" if part else f"{missing} bytes are missing"
        except UNREADABLE as error:
            failure = str(error) or type(error).__name__
    return b"".join(parts), failure
