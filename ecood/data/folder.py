"""Images from a folder of image files.

For a data set NAME and a SPLIT, `PATH/NAME` is the data set's folder if it exists, else `PATH`
itself. In the data set's folder, the images of a split are those under `SPLIT`, at any depth
(so folders by class work); a flat folder, without folders for splits, gives the images that lie
directly in it for every split. Hidden files and folders are left out, links followed:

    PATH/NAME/SPLIT/**/*.png        several data sets, e.g. the ID and the OOD one
    PATH/SPLIT/**/*.png             one data set with its splits
    PATH/*.png                      one flat set, e.g. of OOD images

Files are taken in the order of a hash of their relative path: the same on every machine, and
mixed, so that neither `limit` nor `ecood.images.hold_out` takes one class alone.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ecood.data.decode import decode_file, stack
from ecood.errors import InputError

__all__ = ["SUFFIXES", "image_files", "load_images"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".pgm", ".ppm")


def load_images(path: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split.

    Args:
      path: the folder.
      name: the data set's name.
      split: the split, e.g. "train" or "test".
      limit: how many images at most; all if None.

    Returns:
      uint8 [N, H, W, C], C = 1 if the files are grey and 3 if they are in colour.

    Raises:
      InputError: if there are no images, one cannot be read, or they differ in size or channels.
    """
    files = _files(path, name, split)
    if not files:
        raise InputError(
            f"{path} holds no images of {name}, split {split}; expected image files "
            f"({', '.join(SUFFIXES)}) in {Path(name, split)}/, in {split}/, or, for a flat set, "
            "directly in it."
        )
    files = files[:limit]
    return stack(((str(file), decode_file(file)) for file in files), len(files))


def image_files(
    folder: str, failed: Callable[[OSError], None], *, deep: bool = True
) -> Iterator[str]:
    """The paths of the image files in a folder, in the order of their names.

    Args:
      folder: where to look. Hidden files and folders are left out; links are followed, each
        folder read once.
      failed: is told of each folder that cannot be read.
      deep: whether to look into the folders in it.
    """
    seen = set()
    for root, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if deep and name[0] != ".")
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and name[0] != ".":
                yield os.path.join(root, name)


def _files(path: Path, name: str, split: str) -> list[Path]:
    root = path / name if (path / name).is_dir() else path
    deep = (root / split).is_dir()
    root = root / split if deep else root
    images = [Path(file) for file in image_files(str(root), _refuse, deep=deep)]
    return sorted(images, key=lambda file: _digest(file.relative_to(root)))


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}); expected a folder that you may read."
    ) from error


def _digest(relative: Path) -> bytes:
    return hashlib.sha256(os.fsencode(relative.as_posix())).digest()
