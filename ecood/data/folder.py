"""Images from a folder of image files.

    PATH/NAME/SPLIT/**/*.png        several data sets, e.g. the ID and the OOD one
    PATH/SPLIT/**/*.png             one data set with its splits
    PATH/**/*.png                   one set, the same for every split

Folders by class work. Hidden files and folders are left out, links followed; only
regular files are opened. Files are taken in the order of a hash of their relative path:
the same on every machine, and mixed, so that `limit` takes no class alone.
"""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ecood.data.decode import decode_file, stack
from ecood.errors import InputError, is_special

__all__ = ["SUFFIXES", "image_files", "load_images", "load_labels"]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib"),
    *(".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm"),
)
SPLITS = ("train", "validation", "val", "test")


def load_images(path: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split, uint8 [N, H, W, C]; see `ecood.data.Source`."""
    root = path / name if (path / name).is_dir() else path
    if (root / split).is_dir():
        root = root / split
    elif other := next((f for f in _inner(root) if f.name in {split, *SPLITS}), None):
        raise InputError(
            f"{path} holds {other.relative_to(path)}/, and neither {Path(name, split)}/ nor "
            f"{split}/; expected one of them."
        )

    def place(file: str) -> bytes:
        relative = Path(file).relative_to(root).as_posix()
        return hashlib.sha256(os.fsencode(relative)).digest()

    files = sorted(image_files(str(root), _refuse), key=place)[:limit]
    if not files:
        raise InputError(
            f"{path} holds no images of {name}, split {split}; expected image files "
            f"({', '.join(SUFFIXES)}) in {Path(name, split)}/, in {split}/, or, for one set, in it."
        )
    return stack(((file, decode_file(file)) for file in files), len(files))


def load_labels(path: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """Refuses: a folder has none."""
    raise InputError(
        f"the folder {path} has no labels for {name}, split {split}; expected a source with "
        "labels: use TFDS data, the embedded pair or an .npz file."
    )


def _inner(root: Path) -> Iterator[Path]:
    return itertools.chain(root.glob("*/"), root.glob("*/*/"))


def image_files(
    folder: str, failed: Callable[[OSError], None], others: Counter[str] | None = None
) -> Iterator[str]:
    """The paths of the image files in a folder, at any depth, by name.

    A linked folder is read once; `failed` is told of each that cannot be read. `others`
    counts the files that are not taken, by suffix.
    """
    visited = set()
    others = Counter() if others is None else others
    for root, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(name for name in files if name[0] != "."):
            path, suffix = os.path.join(root, name), os.path.splitext(name)[1].lower()
            if is_special(path):
                others["no regular file"] += 1
            elif suffix in SUFFIXES:
                yield path
            else:
                others[suffix if len(suffix) > 1 else "without suffix"] += 1


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}); expected a folder that you may read."
    ) from error
