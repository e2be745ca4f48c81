"""Where images come from: `auto`, `embedded`, `tfds` or a path, turned into something to read."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecood.data import arrays, download, embedded, folder, prepared
from ecood.errors import InputError

__all__ = ["Source", "find"]

Load = Callable[[str, str, int | None], np.ndarray]  # (name, split, limit) -> array


class Source(NamedTuple):
    """One place to read from.

    Attributes:
      label: "tfds", "embedded" or the path.
      reason: a clause that says what was chosen and why, to follow "NAME from …".
      images: (name, split, limit) -> uint8 [N, H, W, C].
      labels: (name, split, limit) -> int64 [N].
    """

    label: str
    reason: str
    images: Load
    labels: Load


def find(source: str | Path, names: Sequence[str], timeout: float) -> Source:
    """Chooses where to read from; downloads if that is what it takes.

    Args:
      source: "auto", "embedded", "tfds" or a path.
      names: the data sets that will be asked for.
      timeout: seconds within which a host must answer before a download is tried.

    Returns:
      The source. It holds all of `names`, except that `auto` may fall back on the embedded pair.

    Raises:
      InputError: if there is nothing to read.
    """
    if source == "auto":
        return _auto(names, timeout)
    if source == "embedded":
        return _embedded("the images embedded in the package, as asked for")
    if source == "tfds":
        found = _tfds(names, timeout)
        if isinstance(found, str):
            raise InputError(
                f"source tfds cannot give {' and '.join(names)}: {found}; expected prepared data "
                "or a way to download them: name a data directory, or use source embedded."
            )
        return found
    return _at(Path(source).expanduser(), names)


def _embedded(reason: str) -> Source:
    return Source("embedded", reason, embedded.load_images, embedded.load_labels)


def _auto(names: Sequence[str], timeout: float) -> Source:
    found = _tfds(names, timeout)
    if isinstance(found, str):
        return _embedded(f"the images embedded in the package, because {found}")
    return found


def _tfds(names: Sequence[str], timeout: float) -> Source | str:
    """The default TFDS directory with all of `names` in it, or why that cannot be had."""
    directory = prepared.default_directory()
    missing = [name for name in names if prepared.find(directory, name) is None]
    if not missing:
        return _prepared("tfds", directory, f"the data that TFDS has prepared in {directory}")
    lack = f"{directory} holds no prepared {' or '.join(missing)}"
    if obstacle := download.obstacle(missing, timeout):
        return f"{lack} and {obstacle}"
    try:
        for name in missing:
            download.download(name, directory)
    except InputError as error:
        return f"{lack} and {str(error).rstrip('.')}"
    return _prepared(
        "tfds", directory, f"a TFDS download into {directory}, which held no {' or '.join(missing)}"
    )


def _at(path: Path, names: Sequence[str]) -> Source:
    label = str(path)
    if path.suffix.lower() in arrays.SUFFIXES:
        return Source(
            label,
            f"the array file {path}, as asked for",
            partial(arrays.load_images, path),
            partial(arrays.load_labels, path),
        )
    if not path.is_dir():
        raise InputError(
            f"{path} is {'a file' if path.exists() else 'not there'}; expected auto, embedded, "
            "tfds, a TFDS data directory, a folder of images or an .npz or .npy file: check the "
            "path."
        )
    if prepared.names(path) or any(prepared.find(path, name) for name in names):
        return _prepared(label, path, f"the TFDS data directory {path}, as asked for")
    return Source(
        label,
        f"the folder of images {path}, as asked for",
        partial(folder.load_images, path),
        partial(_no_labels, path),
    )


def _prepared(label: str, directory: Path, reason: str) -> Source:
    return Source(
        label,
        reason,
        partial(prepared.load_images, directory),
        partial(prepared.load_labels, directory),
    )


def _no_labels(path: Path, name: str, split: str, limit: int | None) -> np.ndarray:
    raise InputError(
        f"the folder {path} has no labels for {name}, split {split}; expected a source with "
        "labels: use TFDS data, the embedded pair or an .npz file."
    )
