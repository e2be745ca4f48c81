"""Images from a folder of image files.

    PATH/NAME/SPLIT/**/*.png        several data sets, e.g. the ID and the OOD one
    PATH/SPLIT/**/*.png             one data set with its splits
    PATH/*.png                      one flat set, the same for every split

Folders by class work. Hidden files and folders are left out, links followed. Files are
taken in the order of a hash of their relative path: the same on every machine, and
mixed, so that `limit` takes no class alone.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ecood.data.decode import decode_file, stack
from ecood.errors import InputError

__all__ = ["SUFFIXES", "image_files", "load_images", "load_labels"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".pgm", ".ppm")


def load_images(path: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split, uint8 [N, H, W, C]; see `ecood.data.Source`."""
    root = path / name if (path / name).is_dir() else path
    deep = (root / split).is_dir()
    root = root / split if deep else root

    def place(file: str) -> bytes:
        relative = Path(file).relative_to(root).as_posix()
        return hashlib.sha256(os.fsencode(relative)).digest()

    files = sorted(image_files(str(root), _refuse, deep=deep), key=place)[:limit]
    if not files:
        raise InputError(
            f"{path} holds no images of {name}, split {split}; expected image files "
            f"({', '.join(SUFFIXES)}) in {Path(name, split)}/, in {split}/, or, for a flat set, "
            "directly in it."
        )
    return stack(((file, decode_file(file)) for file in files), len(files))


def load_labels(path: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """Refuses: a folder has none."""
    raise InputError(
        f"the folder {path} has no labels for {name}, split {split}; expected a source with "
        "labels: use TFDS data, the embedded pair or an .npz file."
    )


def image_files(
    folder: str, failed: Callable[[OSError], None], *, deep: bool = True
) -> Iterator[str]:
    """The paths of the image files in a folder, with `deep` at any depth, by name.

    A linked folder is read once; `failed` is told of each that cannot be read.
    """
    visited = set()
    for root, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if deep and name[0] != ".")
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and name[0] != ".":
                yield os.path.join(root, name)


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}); expected a folder that you may read."
    ) from error
