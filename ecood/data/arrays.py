"""Images from a NumPy file.

An `.npy` file holds one array of images, the same for every split. In an `.npz` file,
the images of a data set NAME and a SPLIT have the key `NAME_SPLIT`, else `SPLIT`
(`cifar10_train`, `train`), and their labels `NAME_SPLIT_labels`, else `SPLIT_labels`.
One that holds `images` alone is read as an `.npy` file.

Images are uint8 [N, H, W, C] with C = 1 or 3, or uint8 [N, H, W], read as grey. The
order in the file is kept, so shuffle before saving: `limit` takes the first images.
Pickled objects are never loaded.
"""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from ecood.errors import UNREADABLE, InputError, check_regular
from ecood.images import check_images
from ecood.words import number_of

__all__ = [
    "SUFFIXES",
    "check_channels",
    "check_stored",
    "load_images",
    "load_labels",
    "load_sets",
    "opened",
]

SUFFIXES = (".npy", ".npz")
ALONE = ["images"]  # the keys of a file of one set, whatever its name and split


def load_images(path: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split, uint8 [N, H, W, C]; see `ecood.data.Source`."""
    array, what = _read(path, [f"{name}_{split}", split], limit)
    return check_stored(array, what)


def load_labels(path: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The labels that go with them, int64 [N]."""
    if path.suffix.lower() == ".npy":
        raise InputError(f"{path} holds images alone; expected an .npz file for labels.")
    array, what = _read(path, [f"{name}_{split}_labels", f"{split}_labels"], limit)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{what} is {array.dtype} {list(array.shape)}; expected integer labels [N]."
        )
    return array.astype(np.int64)


def load_sets(path: str | os.PathLike, limit: int | None = None) -> dict[str, np.ndarray]:
    """Every array of an .npz file, each a set of images uint8 [N, H, W, C], by name.

    Of a larger one `limit` images, drawn at random, seed 0.

    Raises:
      InputError: if it cannot be read, or an array is none of images.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read as an .npz file of images ({error}).") from None
    for name, images in arrays.items():
        if images.dtype != np.uint8 or images.ndim != 4:
            given = f"{images.dtype} {list(images.shape)}"
            raise InputError(f"{name} in {path} is {given}; expected uint8 [N, H, W, C].")
        chosen = np.random.default_rng(0).permutation(len(images))[:limit]
        arrays[name] = images[np.sort(chosen)]
    return arrays


def check_stored(array: np.ndarray, what: str) -> np.ndarray:
    """The images of an array named `what`, uint8 [N, H, W, C], or an `InputError`.

    [N, H, W] is read as grey, unless it looks like one image [H, W, C].
    """
    if array.ndim == 3 and array.shape[-1] in (1, 3, 4):
        raise InputError(
            f"{what} has shape {list(array.shape)}, which may be one image, or grey images of "
            f"{number_of(array.shape[-1], 'column')}; expected [N, H, W, C]: save images[None] or "
            "images[..., None]."
        )
    try:
        images = check_images(array[..., None] if array.ndim == 3 else array)
    except InputError as error:
        raise InputError(f"{what.removesuffix(',')}: {error}") from error
    check_channels(images.shape, what)
    return images


def check_channels(shape: tuple[int, ...], what: str) -> None:
    """Refuses an array named `what`, [N, H, W, C] or [H, W, C], whose C is neither 1 nor 3."""
    *_, first, _, channels = shape
    if channels in (1, 3):
        return
    name, axes = ("image", (1, 2, 0)) if len(shape) == 3 else ("images", (0, 2, 3, 1))
    advice = "convert them to grey or RGB"
    if first in (1, 3):
        advice = f"transpose channels-first images with {name}.transpose{axes}"
    elif channels in (2, 4):
        advice = f"drop the last one, which may be alpha, with {name}[..., :{channels - 1}]"
    raise InputError(
        f"{what} has shape {list(shape)}; expected [{', '.join('NHWC'[-len(shape) :])}] with 1 or "
        f"3 channels last: {advice}."
    )


@contextlib.contextmanager
def opened(
    path: str | os.PathLike, choose: Callable[[zipfile.ZipFile, list[str]], str]
) -> Iterator[tuple[IO[bytes], str]]:
    """Opens the array of an `.npy` file, or that of the chosen key of an `.npz`.

    Yields its bytes, from the header on, and what to call it. Whatever goes wrong until
    it is closed ends in an `InputError` that names the file.
    """
    check_regular(path)
    try:
        if Path(path).suffix.lower() == ".npy":
            with open(path, "rb") as file:
                yield file, str(path)
            return
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.namelist())
            key = choose(archive, [n[:-4] for n in archive.namelist() if n.endswith(".npy")])
            with archive.open(f"{key}.npy") as file:
                yield file, f"{path}, key {key},"
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a NumPy file: check the path.") from None
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected plain arrays saved by numpy.save or "
            "numpy.savez: save the file again."
        ) from error


def _check_members(path: str | os.PathLike, names: list[str]) -> None:
    """Refuses names that point outside of the archive: numpy.savez writes none."""
    for name in names:
        if ".." in PurePosixPath(name.replace("\\", "/")).parts or name[:1] in ("/", "\\"):
            raise InputError(
                f"{path} holds an array named {name!r}, which points outside of the archive; "
                "expected what numpy.savez writes: do not use this file."
            )


def _read(path: Path, keys: list[str], limit: int | None) -> tuple[np.ndarray, str]:
    """The first `limit` rows of the array under the first of `keys`, and what to call it."""

    def choose(archive: zipfile.ZipFile, held: list[str]) -> str:
        for key in ALONE if held == ALONE else keys:
            if key in held:
                return key
        raise InputError(
            f"{path} holds the keys {', '.join(held) or '(none)'}; expected {' or '.join(keys)}: "
            "save the array under that key."
        )

    with opened(path, choose) as (file, what):
        if isinstance(file, zipfile.ZipExtFile):
            array = np.lib.format.read_array(file, allow_pickle=False)
        else:
            array = np.lib.format.open_memmap(path, mode="r")
        return np.array(array[:limit] if array.ndim else array), what
