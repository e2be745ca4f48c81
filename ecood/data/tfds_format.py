"""Writes data sets in TFDS's own format, ArrayRecord, without TensorFlow.

What a data set is, its features and description, TFDS's builder says; records are in
TFDS's order, which is that of a hash of their keys. Images are PNG, of the same pixels as
TFDS's, whose encoder may choose other bytes.
"""

import contextlib
import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ecood.data.archives import Examples

__all__ = ["write_info", "write_split"]

SAMPLE = 1000  # records that tell how large all will be


def write_split(builder: Any, split: str, examples: Examples, folder: Path) -> Any:
    """Writes the files of a split to `folder`; its `tfds.core.SplitInfo`."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.utils import shard_utils

    for feature, names in examples.classes.items():
        builder.info.features[feature].names = names
    count = len(examples.keys)
    if not count:
        raise ValueError(f"it has no {split} images")
    order = sorted(range(count), key=lambda i: _place(split, examples.keys[i]))
    sample = [len(record) for record in _records(builder, examples, order[:SAMPLE])]
    shards = shard_utils.ShardConfig.calculate_number_shards(
        sum(sample) * count // len(sample), count
    )
    ends = shard_utils.get_shard_boundaries(count, shards)
    lengths = np.diff([0, *ends]).tolist()
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=builder.name, split=split, filetype_suffix="array_record"
    )
    records, size = _records(builder, examples, order), 0
    for shard, length in enumerate(lengths):
        path = template.sharded_filepath(shard_index=shard, num_shards=shards)
        writer = ArrayRecordWriter(str(path), "group_size:1")  # as TFDS's, for random access
        for record in itertools.islice(records, length):
            with _disk():
                writer.write(record)
            size += len(record)
        with _disk():
            writer.close()
    return tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=size, filename_template=template
    )


def write_info(builder: Any, splits: Iterable[Any], size: int, folder: Path) -> None:
    """Writes what describes the data set; `size` is that of the archives in bytes."""
    import tensorflow_datasets as tfds

    builder.info.set_splits(tfds.core.SplitDict(splits))
    builder.info.download_size = size
    builder.info.write_to_directory(folder)


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Raises what the writer says of a full disk as what it is."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).split(";")[0]) from error


def _place(split: str, key: int | str) -> bytes:
    return hashlib.md5(f"{split}{key}".encode(), usedforsecurity=False).digest()


def _records(builder: Any, examples: Examples, order: Iterable[int]) -> Iterator[bytes]:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = builder.info.features
    serializer = ExampleSerializer(features.get_serialized_info())
    for i in order:
        example = examples.get(i)
        if isinstance(example["image"], np.ndarray):
            example["image"] = _png(example["image"])
        yield serializer.serialize_example(features.encode_example(example))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
