"""CelebA, aligned and cropped: JPEG files, and a list for each thing that is known of them."""

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from PIL import JpegImagePlugin

from ecood.data.archives.examples import Examples

__all__ = ["FILES", "SPLITS", "read"]

FILES = (
    "img_align_celeba.zip",
    "list_eval_partition.txt",
    "list_attr_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "identity_CelebA.txt",
)
SPLITS = {"train": "0", "validation": "1", "test": "2"}
SIZE = (178, 218)  # width and height


def read(split: str, paths: Sequence[Path]) -> Examples:
    """The examples of a split, from `FILES`; of images a folder will do."""
    images, partition, *lists = paths
    image = _images(images)
    keys = [name for name, (which,) in _rows(partition) if which == SPLITS[split]]
    attributes, landmarks = map(_table, lists[:2])
    identity = dict(_rows(lists[2]))

    def get(i: int) -> dict:
        name = keys[i]
        return {
            "image": _checked(image(name), name),
            "landmarks": {k: int(v) for k, v in landmarks[name].items()},
            "attributes": {k: int(v) > 0 for k, v in attributes[name].items()},
            "identity": {"Identity_No": int(*identity[name])},
        }

    return Examples(keys, get)


def _images(path: Path) -> Callable[[str], bytes]:
    """A function that gives the file of a name."""
    if path.is_dir():
        files = {file.name: file for file in path.rglob("*.jpg")}
        return lambda name: files[name].read_bytes()
    archive = zipfile.ZipFile(path)
    members = {PurePosixPath(name).name: name for name in archive.namelist()}
    return lambda name: archive.read(members[name])


def _checked(jpeg: bytes, name: str) -> bytes:
    with JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg)) as picture:
        if picture.size != SIZE:
            raise ValueError(f"{name} has {picture.size} pixels, and CelebA's have {SIZE}")
    return jpeg


def _rows(path: Path, start: int = 0) -> list[tuple[str, list[str]]]:
    """The lines of a list: a file's name and its values."""
    words = (line.split() for line in path.read_text().splitlines()[start:])
    return [(row[0], row[1:]) for row in words if row]


def _table(path: Path) -> dict[str, dict[str, str]]:
    """A list whose second line names its columns."""
    columns = path.read_text().split("\n", 2)[1].split()
    return {name: dict(zip(columns, row, strict=True)) for name, row in _rows(path, 2)}
