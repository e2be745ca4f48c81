"""Images that TensorFlow Datasets (TFDS) has prepared, without TensorFlow.

A data directory holds `NAME/VERSION/` (or `NAME/CONFIG/VERSION/`, for the name
"NAME/CONFIG"); the newest version is taken, and images come in the order of its files.
TFDS reads ArrayRecord itself; TFRecord, which `tfds.load` writes unless told otherwise,
it reads only with TensorFlow, so that framing is undone here.
"""

import contextlib
import io
import logging
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ecood.data.decode import decode, stack
from ecood.errors import InputError
from ecood.words import number_of

__all__ = ["default_directory", "find", "load_images", "load_labels", "names", "quiet"]

CHUNK = 4096  # records in memory at a time
VERSION = re.compile(r"\d+\.\d+\.\d+")


def default_directory() -> Path:
    """Where TFDS keeps its data: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    # Unlike Path's, this one leaves "~" for a user who has no home.
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def find(directory: Path, name: str) -> Path | None:
    """The folder of a data set's newest version in a TFDS data directory, or None."""
    versions = _versions(directory / name, "*")
    return max(versions, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def names(directory: Path) -> list[str]:
    """The names of the prepared data sets in a TFDS data directory; empty if it is none."""
    return sorted({version.parent.name for version in _versions(directory, "*/*")})


def _versions(directory: Path, pattern: str) -> Iterator[Path]:
    folders = (info.parent for info in directory.glob(f"{pattern}/dataset_info.json"))
    return (folder for folder in folders if VERSION.fullmatch(folder.name))


def load_images(directory: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split, uint8 [N, H, W, C]; see `ecood.data.Source`."""
    with _values(directory, name, split, limit, "image") as (what, count, encoded):
        called = ((f"{what}, image {i},", image) for i, image in enumerate(encoded))
        return stack(((each, decode(io.BytesIO(image), each)) for each, image in called), count)


def load_labels(directory: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The labels that go with them, int64 [N]; refused where they are not known (-1)."""
    with _values(directory, name, split, limit, "label") as (what, _, values):
        labels = np.array(list(values), np.int64)
        if labels.ndim != 1 or labels.min() < 0:
            raise InputError(
                f"{what}, has no known labels; expected one class, 0 or more, an image: "
                "use a data set with labels."
            )
        return labels


@contextlib.contextmanager
def _values(
    directory: Path, name: str, split: str, limit: int | None, key: str
) -> Iterator[tuple[str, int, Iterator[Any]]]:
    """What to call a split, its number of records, and their feature `key`, encoded."""
    folder = find(directory, name)
    if folder is None:
        raise InputError(
            f"{directory} holds the TFDS data sets {', '.join(names(directory)) or '(none)'}; "
            f"expected {name}: prepare it with tfds.data_source or name another directory."
        )
    what = f"the TFDS data set {folder}, split {split}"
    try:
        with quiet():
            import tensorflow_datasets as tfds

            builder = tfds.builder_from_directory(folder)
            splits, features = builder.info.splits, builder.info.features
            if split not in splits:
                raise InputError(
                    f"{folder} has the splits {', '.join(splits) or '(none)'}; expected {split}: "
                    "choose one of them or prepare the data set again."
                )
            count = splits[split].num_examples
            if count == 0:
                raise InputError(f"{what}, is empty; expected images: prepare the data set again.")
            if key not in features:
                raise InputError(
                    f"{what}, has the features {', '.join(sorted(features))}; expected {key}: "
                    "use a data set of images."
                )
            count = count if limit is None else min(limit, count)
            decoders = {"image": tfds.decode.SkipDecoding()} if "image" in features else None
            read = features.deserialize_example_np
            records = _records(builder, split, count)
            yield what, count, (read(record, decoders=decoders)[key] for record in records)
    except InputError:
        raise
    except Exception as error:  # TFDS and the readers below it raise many types for damaged files
        raise InputError(
            f"{what}, cannot be read ({str(error)[:120]}); expected array_record or "
            "tfrecord files that TFDS has prepared: prepare the data set again."
        ) from error


def _records(builder: Any, split: str, count: int) -> Iterator[bytes]:
    import tensorflow_datasets as tfds

    if builder.info.file_format.value == "tfrecord":
        yield from _tfrecords(map(Path, builder.info.splits[split].filepaths), count)
        return
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(split, deserialize_method=raw)
    for start in range(0, count, CHUNK):
        yield from source.__getitems__(range(start, min(start + CHUNK, count)))


def _tfrecords(paths: Iterator[Path], count: int) -> Iterator[bytes]:
    """The first `count` records: each is its length (uint64), a CRC, the bytes, a CRC."""
    for path in paths:
        with path.open("rb") as file:
            while count and (header := file.read(12)):
                (length,) = struct.unpack_from("<Q", header)
                record = file.read(length)
                if len(record) < length or len(file.read(4)) < 4:
                    raise EOFError(f"{path.name} ends within a record")
                count -= 1
                yield record
    if count:
        raise EOFError(f"{number_of(count, 'record')} fewer than dataset_info.json promises")


@contextlib.contextmanager
def quiet(name: str = "absl") -> Iterator[None]:
    """Keeps a package's remarks off the screen; TFDS speaks through absl's logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
