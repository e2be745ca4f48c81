"""Images, a pair or one set: from archives, TFDS, a folder, a file, a hub, or the package.

A `source` is one of

| source | what it reads |
| --- | --- |
| `auto` | as `tfds`, else the embedded pair |
| `embedded` | FashionMNIST and MNIST, in the package (`embedded/README.md`) |
| `tfds` | TFDS data in $TFDS_DATA_DIR or ~/tensorflow_datasets, else a download, prepared there |
| `hf:OWNER/NAME`, `hf:OWNER/NAME/CONFIG` | a data set of the Hugging Face hub (the extra `hf`) |
| a path | a TFDS data directory, a folder of images, or an `.npz` or `.npy` file |

The layouts of a path are documented in `prepared.py`, `folder.py` and `arrays.py`; what
is downloaded, and how, in `prepare.py`, `archives` and `hub.py`. Data sets have their TFDS
names, e.g. "cifar10"; `limit` takes the first images of each array. Images that are missing
or damaged, or labels that are not known, raise an `InputError`.
"""

import itertools
import os
import types
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecood.data import arrays, embedded, folder, hub, prepare, prepared
from ecood.data.sizes import resize
from ecood.errors import InputError, check_path, check_whole

__all__ = ["ImagePair", "load", "load_images", "load_labels", "resize"]

DOWNLOAD_TIMEOUT = 3.0  # seconds within which a host must answer
SPLITS = ("train", "test")  # downloaded by themselves

Load = Callable[[str, str, int | None], np.ndarray]


class Source(NamedTuple):
    """One place to read from; its functions take a data set's name, split and limit."""

    label: str  # "tfds", "embedded", "hf:…" or the path
    reason: str  # a clause: what was chosen and why, to follow "NAME from …"
    images: Load  # uint8 [N, H, W, C]
    labels: Load  # int64 [N]


class ImagePair(NamedTuple):
    """An ID and an OOD data set."""

    id_name: str  # the embedded pair may have replaced the one asked for; likewise OOD
    ood_name: str
    id_train: np.ndarray  # uint8 [N, H, W, C], as the two below
    id_test: np.ndarray
    ood_test: np.ndarray
    source: str  # "tfds", "embedded", "hf:…" or a path; "A + B" if ID is from A and OOD from B
    reason: str  # one sentence: which source was used, and why


def load(
    source: str | Path,
    id_name: str,
    ood_name: str,
    *,
    ood_source: str | Path | None = None,
    limit: int | None = None,
) -> ImagePair:
    """Loads the ID training, ID test and OOD (from `ood_source`) test images.

    Where the embedded images are used and are not those asked for, FashionMNIST stands
    in as ID and MNIST as OOD; the result says so. Raises `InputError` also if ID and
    OOD differ in shape, or two of the three arrays are the same.
    """
    _check_limit(limit)
    asked = (id_name, ood_name)
    if ood_source is None or ood_source == source:
        id_from = ood_from = _find(source, asked)
    else:
        id_from = _find(source, asked[:1])
        ood_from = _find(ood_source, asked[1:])
    packaged = [found.label == "embedded" for found in (id_from, ood_from)]
    neither = all(packaged) and set(asked) != set(embedded.NAMES)
    id_name, ood_name = used = tuple(
        stand_in if here and (neither or name not in embedded.NAMES) else name
        for name, stand_in, here in zip(asked, embedded.NAMES, packaged, strict=True)
    )
    pair = ImagePair(
        id_name,
        ood_name,
        id_from.images(id_name, "train", limit),
        id_from.images(id_name, "test", limit),
        ood_from.images(ood_name, "test", limit),
        id_from.label if id_from is ood_from else f"{id_from.label} + {ood_from.label}",
        _reason(asked, used, id_from.reason, ood_from.reason),
    )
    _check_pair(pair)
    return pair


def load_images(
    source: str | Path, name: str, split: str, *, limit: int | None = None
) -> np.ndarray:
    """One split of one data set, uint8 [N, H, W, C]."""
    return _holding(name, source, limit).images(name, split, limit)


def load_labels(
    source: str | Path, name: str, split: str, *, limit: int | None = None
) -> np.ndarray:
    """The labels of the same arguments' `load_images`, int64 [N], from 0."""
    return _holding(name, source, limit).labels(name, split, limit)


def _holding(name: str, source: str | Path, limit: int | None) -> Source:
    _check_limit(limit)
    found = _find(source, [name])
    if found.label == "embedded" and name not in embedded.NAMES:
        raise InputError(
            f"there is no {name} among {found.reason}; expected {' or '.join(embedded.NAMES)}: "
            "name a TFDS directory, a folder or an array file for other images."
        )
    return found


def _check_limit(limit: int | None) -> None:
    if limit is not None:
        check_whole("limit", limit)


def _reason(asked: tuple[str, ...], used: tuple[str, ...], id_reason: str, ood_reason: str) -> str:
    stand_in = f", in place of {' and '.join(asked)}," if used != asked else ""
    if id_reason == ood_reason:
        return f"{' and '.join(used)}{stand_in} are from {id_reason}."
    return f"{used[0]} (ID) is from {id_reason}, and {used[1]} (OOD){stand_in} from {ood_reason}."


def _check_pair(pair: ImagePair) -> None:
    sets = {
        f"{pair.id_name} train (ID)": pair.id_train,
        f"{pair.id_name} test (ID)": pair.id_test,
        f"{pair.ood_name} test (OOD)": pair.ood_test,
    }
    source = pair.reason.rstrip(".")
    for (first, one), (second, other) in itertools.combinations(sets.items(), 2):
        if one.shape[1:] != other.shape[1:]:
            raise InputError(
                f"{first} has images [H, W, C] = {list(one.shape[1:])} but {second} has "
                f"{list(other.shape[1:])}, where {source}; expected one size and channel count: "
                "resize or convert one of them."
            )
        if np.array_equal(one, other):
            raise InputError(
                f"{first} and {second} are the same images, where {source}; expected three "
                "different sets: use a source that tells them apart by name and split, or an "
                "ood_source of its own."
            )


def _find(source: str | Path, names: Sequence[str]) -> Source:
    """The source to read `names` from, possibly by a download, or the embedded pair."""
    check_path(source, "auto, embedded, tfds, hf:OWNER/NAME or a path")
    if source == "embedded":
        return _embedded("as asked for")
    if str(source).startswith(hub.PREFIX):
        source = str(source)
        reason = f"the Hugging Face hub's {source.removeprefix(hub.PREFIX)}, as asked for"
        return _read_by(hub, source, reason, source)
    if source not in ("auto", "tfds"):
        return _at(Path(os.path.expanduser(source)), names)
    found = _tfds(names)
    if isinstance(found, Source):
        return found
    if source == "auto":
        return _embedded(f"because {found}")
    raise InputError(
        f"source tfds cannot give {' and '.join(names)}: {found}; expected prepared data "
        "or a way to download them: name a data directory, or use source embedded."
    )


def _read_by(reader: types.ModuleType, label: str, reason: str, *where: str | Path) -> Source:
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
    if directory.parts[:1] == ("~",):
        return f"{lack}, as this user has no home"
    if obstacle := prepare.obstacle(missing, DOWNLOAD_TIMEOUT):
        return f"{lack} and {obstacle}"
    try:
        for name in missing:
            prepare.prepare(name, directory, splits=SPLITS)
    except InputError as error:
        return f"{lack} and {str(error).rstrip('.')}"
    reason = f"a download, prepared in {directory}, which held no {' or '.join(missing)}"
    return _read_by(prepared, "tfds", reason, directory)


def _at(path: Path, names: Sequence[str]) -> Source:
    if path.suffix.lower() in arrays.SUFFIXES:
        what, reader = "array file", arrays
    elif not os.path.isdir(path):
        what = "a file" if os.path.exists(path) else "not there"
        raise InputError(
            f"{path} is {what}; expected auto, embedded, "
            "tfds, hf:OWNER/NAME, a TFDS data directory, a folder of images or an .npz or .npy "
            "file: check the path."
        )
    elif prepared.names(path) or any(prepared.find(path, name) for name in names):
        what, reader = "TFDS data directory", prepared
    else:
        what, reader = "folder of images", folder
    return _read_by(reader, str(path), f"the {what} {path}, as asked for", path)
