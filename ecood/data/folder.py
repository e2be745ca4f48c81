"""Images from a folder of image files.

For a data set NAME and a SPLIT, `PATH/NAME` is the data set's folder if it exists, else `PATH`
itself. In the data set's folder, the images of a split are those under `SPLIT`, at any depth
(so folders by class work); a flat folder, without folders for splits, gives the images that lie
directly in it for every split:

    PATH/NAME/SPLIT/**/*.png        several data sets, e.g. the ID and the OOD one
    PATH/SPLIT/**/*.png             one data set with its splits
    PATH/*.png                      one flat set, e.g. of OOD images

Files are taken in the order of a hash of their relative path: the same on every machine, and
mixed, so that neither `limit` nor `ecood.images.hold_out` takes one class alone.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ecood.data.decode import decode, stack
from ecood.errors import InputError

__all__ = ["load_images"]

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
      InputError: if there are no images, one cannot be decoded, or they differ in size or channels.
    """
    files = _files(path, name, split)
    if not files:
        raise InputError(
            f"{path} holds no images of {name}, split {split}; expected image files "
            f"({', '.join(SUFFIXES)}) in {Path(name, split)}/, in {split}/, or, for a flat set, "
            "directly in it."
        )
    files = files[:limit]
    return stack(_decoded(files), len(files))


def _files(path: Path, name: str, split: str) -> list[Path]:
    root = path / name if (path / name).is_dir() else path
    folder = root / split
    found = folder.rglob("*") if folder.is_dir() else root.glob("*")
    root = folder if folder.is_dir() else root
    images = [
        file
        for file in found
        if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file()
    ]
    return sorted(images, key=lambda file: _digest(file.relative_to(root)))


def _digest(relative: Path) -> bytes:
    return hashlib.sha256(relative.as_posix().encode()).digest()


def _decoded(files: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    for path in files:
        with path.open("rb") as file:
            yield str(path), decode(file, str(path))
