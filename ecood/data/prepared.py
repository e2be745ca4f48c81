"""Images from data sets that TensorFlow Datasets (TFDS) has prepared, read without TensorFlow.

A data directory holds `NAME/VERSION/` (or `NAME/CONFIG/VERSION/`, for the name "NAME/CONFIG"); the
newest version is taken. ArrayRecord files are read by TFDS itself. TFRecord files, which
`tfds.load` writes unless told otherwise, TFDS reads only with TensorFlow, so their framing is
undone here.
"""

import contextlib
import io
import logging
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ecood.data.decode import decode, stack
from ecood.errors import InputError

__all__ = ["default_directory", "find", "load_images", "load_labels", "names", "quiet"]

CHUNK = 4096  # records in memory at a time
VERSION = re.compile(r"\d+\.\d+\.\d+")


def default_directory() -> Path:
    """Where TFDS keeps its data: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(directory: Path, name: str) -> Path | None:
    """The folder of a prepared data set's newest version.

    Args:
      directory: a TFDS data directory.
      name: the data set's name, e.g. "cifar10".

    Returns:
      `directory/name/VERSION`, or None if the data set is not there.
    """
    versions = [
        folder.parent
        for folder in (directory / name).glob("*/dataset_info.json")
        if VERSION.fullmatch(folder.parent.name)
    ]
    return max(versions, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def names(directory: Path) -> list[str]:
    """The names of the prepared data sets in a TFDS data directory; empty if it is none."""
    infos = directory.glob("*/*/dataset_info.json")
    found = {info.parent.parent.name for info in infos if VERSION.fullmatch(info.parent.name)}
    return sorted(found)


def load_images(directory: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split, in the order of the files.

    Args:
      directory: a TFDS data directory.
      name: the data set's name.
      split: the split, e.g. "train" or "test".
      limit: how many images at most; all if None.

    Returns:
      uint8 [N, H, W, C].

    Raises:
      InputError: if the data set or split is missing or damaged, holds no images, or holds images
        of several sizes.
    """
    with _records(directory, name, split, limit) as records:
        images = (
            (what, decode(io.BytesIO(image), what))
            for i, image in enumerate(records.values("image"))
            for what in [f"{records.what}, image {i},"]
        )
        return stack(images, records.count)


def load_labels(directory: Path, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The labels of one split, in the order of the files.

    Args:
      directory: a TFDS data directory.
      name: the data set's name.
      split: the split.
      limit: how many labels at most; all if None.

    Returns:
      int64 [N].

    Raises:
      InputError: if the data set or split is missing or damaged, or its labels are unknown (-1).
    """
    with _records(directory, name, split, limit) as records:
        labels = np.array(list(records.values("label")), np.int64)
        if labels.ndim != 1 or labels.min() < 0:
            raise InputError(
                f"{records.what}, has no known labels; expected one class, 0 or more, an image: "
                "use a data set with labels."
            )
        return labels


class _Records(NamedTuple):
    """The first `count` records of a split."""

    what: str  # for error messages
    builder: Any
    split: str
    count: int

    def values(self, key: str) -> Iterator[Any]:
        """The feature `key` of every record; images stay encoded."""
        import tensorflow_datasets as tfds

        features = self.builder.info.features
        if key not in features:
            raise InputError(
                f"{self.what}, has the features {', '.join(sorted(features))}; expected {key}: "
                "use a data set of images."
            )
        decoders = {"image": tfds.decode.SkipDecoding()} if "image" in features else None
        for record in self._serialised():
            yield features.deserialize_example_np(record, decoders=decoders)[key]

    def _serialised(self) -> Iterator[bytes]:
        import tensorflow_datasets as tfds

        if self.builder.info.file_format.value == "tfrecord":
            paths = self.builder.info.splits[self.split].filepaths
            yield from _tfrecords([Path(path) for path in paths], self.count)
            return
        source = self.builder.as_data_source(
            self.split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        for start in range(0, self.count, CHUNK):
            yield from source.__getitems__(range(start, min(start + CHUNK, self.count)))


@contextlib.contextmanager
def _records(directory: Path, name: str, split: str, limit: int | None) -> Iterator[_Records]:
    """Opens a split; whatever goes wrong while it is open names the data set."""
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
            splits = builder.info.splits
            if split not in splits:
                raise InputError(
                    f"{folder} has the splits {', '.join(splits) or '(none)'}; expected {split}: "
                    "choose one of them or prepare the data set again."
                )
            count = splits[split].num_examples
            if count == 0:
                raise InputError(f"{what}, is empty; expected images: prepare the data set again.")
            yield _Records(what, builder, split, count if limit is None else min(limit, count))
    except InputError:
        raise
    except Exception as error:  # TFDS and the readers below it raise many types for damaged files
        raise InputError(
            f"{what}, cannot be read ({str(error)[:120]}); expected array_record or "
            "tfrecord files that TFDS has prepared: prepare the data set again."
        ) from error


def _tfrecords(paths: list[Path], count: int) -> Iterator[bytes]:
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
        raise EOFError(f"{count} records fewer than dataset_info.json promises")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the remarks of TFDS, which speaks through absl's logger, off the screen."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
