"""Images from a NumPy file.

An `.npy` file holds one array of images and gives the same array for every split. An `.npz` file
holds named arrays, looked up for a data set NAME and a SPLIT in this order:

| what | keys |
| --- | --- |
| images | `NAME_SPLIT`, else `SPLIT` (`cifar10_train`, `train`, `test`, …) |
| labels | `NAME_SPLIT_labels`, else `SPLIT_labels` |

Images are uint8 [N, H, W, C] with C = 1 or 3, or uint8 [N, H, W], read as grey. The order in the
file is kept, so shuffle before saving: `limit` takes the first images and `ecood.images.hold_out`
the last ones. Pickled objects are never loaded.
"""

import lzma
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from ecood.errors import InputError
from ecood.images import check_images

__all__ = ["SUFFIXES", "UNREADABLE", "check_members", "load_images", "load_labels"]

SUFFIXES = (".npy", ".npz")

# What reading a damaged, encrypted or oddly packed file may raise; InputError is caught before.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def load_images(path: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split.

    Args:
      path: the file.
      name: the data set's name, part of the key in an `.npz` file.
      split: the split, e.g. "train" or "test".
      limit: how many images at most; all if None.

    Returns:
      uint8 [N, H, W, C].

    Raises:
      InputError: if the file is missing, damaged, lacks the key, or holds something else.
    """
    array, what = _read(path, [f"{name}_{split}", split], limit)
    if array.ndim == 3:
        array = array[..., None]
    try:
        images = check_images(array)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    if images.shape[-1] not in (1, 3):
        raise InputError(
            f"{what} has shape {list(images.shape)}; expected [N, H, W, C] with 1 or 3 channels "
            "last: transpose channels-first images with images.transpose(0, 2, 3, 1)."
        )
    return images


def load_labels(path: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The labels of one split.

    Args:
      path: an `.npz` file.
      name: the data set's name.
      split: the split.
      limit: how many labels at most; all if None.

    Returns:
      int64 [N].

    Raises:
      InputError: if the file is missing, damaged, or holds no labels.
    """
    if path.suffix.lower() == ".npy":
        raise InputError(f"{path} holds images alone; expected an .npz file for labels.")
    array, what = _read(path, [f"{name}_{split}_labels", f"{split}_labels"], limit)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{what} is {array.dtype} {list(array.shape)}; expected integer labels [N]."
        )
    return array.astype(np.int64)


def check_members(path: str | Path, names: Iterable[str]) -> None:
    """Refuses an archive with names that point outside of it; numpy.savez writes none.

    Nothing is ever unpacked to the disk, so such a name could do no harm; it is a sign that the
    archive is not what it should be.

    Raises:
      InputError: naming the first such name.
    """
    for name in names:
        if ".." in PurePosixPath(name.replace("\\", "/")).parts or name[:1] in ("/", "\\"):
            raise InputError(
                f"{path} holds an array named {name!r}, which points outside of the archive; "
                "expected what numpy.savez writes: do not use this file."
            )


def _read(path: Path, keys: list[str], limit: int | None) -> tuple[np.ndarray, str]:
    """The first `limit` rows of the array under the first of `keys`, and what to call it."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return np.array(array[:limit] if array.ndim else array), str(path)
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no zip archive")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            check_members(path, archive.files)
            key = next((key for key in keys if key in archive.files), None)
            if key is None:
                raise InputError(
                    f"{path} holds the keys {', '.join(archive.files) or '(none)'}; expected "
                    f"{' or '.join(keys)}: save the array under that key."
                )
            array = archive[key]
            return (array[:limit] if array.ndim else array), f"{path}, key {key},"
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a NumPy file: check the path.") from None
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected plain arrays saved by numpy.save or "
            "numpy.savez: save the file again."
        ) from error
