"""A source, `auto`, `embedded`, `tfds` or a path, as something to read."""

import types
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecood.data import arrays, download, embedded, folder, prepared
from ecood.errors import InputError

__all__ = ["Source", "find"]

DOWNLOAD_TIMEOUT = 3.0  # seconds within which a host must answer

Load = Callable[[str, str, int | None], np.ndarray]


class Source(NamedTuple):
    """One place to read from.

    Its functions take a data set's name, a split ("train", "test", …) and how many
    images at most, the first ones; all if None. They raise `InputError` if what is
    asked for is missing or damaged, holds something else, or images of several sizes.
    """

    label: str  # "tfds", "embedded" or the path
    reason: str  # a clause: what was chosen and why, to follow "NAME from …"
    images: Load  # uint8 [N, H, W, C]
    labels: Load  # int64 [N]


def find(source: str | Path, names: Sequence[str]) -> Source:
    """The source to read `names` from; downloads if that is what it takes.

    It holds all of them, except that `auto` may fall back on the embedded pair. Raises
    `InputError` if there is nothing to read.
    """
    if source == "embedded":
        return _embedded("as asked for")
    if source not in ("auto", "tfds"):
        return _at(Path(source).expanduser(), names)
    found = _tfds(names)
    if isinstance(found, Source):
        return found
    if source == "auto":
        return _embedded(f"because {found}")
    raise InputError(
        f"source tfds cannot give {' and '.join(names)}: {found}; expected prepared data "
        "or a way to download them: name a data directory, or use source embedded."
    )


def _read_by(reader: types.ModuleType, label: str, reason: str, *where: Path) -> Source:
    images, labels = (partial(load, *where) for load in (reader.load_images, reader.load_labels))
    return Source(label, reason, images, labels)


def _embedded(why: str) -> Source:
    return _read_by(embedded, "embedded", f"the images embedded in the package, {why}")


def _tfds(names: Sequence[str]) -> Source | str:
    """The default TFDS directory with all of `names` in it, or why that cannot be had."""
    directory = prepared.default_directory()
    missing = [name for name in names if prepared.find(directory, name) is None]
    if not missing:
        reason = f"the data that TFDS has prepared in {directory}"
        return _read_by(prepared, "tfds", reason, directory)
    lack = f"{directory} holds no prepared {' or '.join(missing)}"
    if obstacle := download.obstacle(missing, DOWNLOAD_TIMEOUT):
        return f"{lack} and {obstacle}"
    try:
        for name in missing:
            download.download(name, directory)
    except InputError as error:
        return f"{lack} and {str(error).rstrip('.')}"
    reason = f"a TFDS download into {directory}, which held no {' or '.join(missing)}"
    return _read_by(prepared, "tfds", reason, directory)


def _at(path: Path, names: Sequence[str]) -> Source:
    if path.suffix.lower() in arrays.SUFFIXES:
        what, reader = "array file", arrays
    elif not path.is_dir():
        raise InputError(
            f"{path} is {'a file' if path.exists() else 'not there'}; expected auto, embedded, "
            "tfds, a TFDS data directory, a folder of images or an .npz or .npy file: check the "
            "path."
        )
    elif prepared.names(path) or any(prepared.find(path, name) for name in names):
        what, reader = "TFDS data directory", prepared
    else:
        what, reader = "folder of images", folder
    return _read_by(reader, str(path), f"the {what} {path}, as asked for", path)
