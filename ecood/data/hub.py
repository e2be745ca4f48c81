"""Images of a data set on the Hugging Face hub, through the library `datasets` (the extra `hf`).

A source is "hf:OWNER/NAME", or "hf:OWNER/NAME/CONFIG" for one of several configurations.
The images are those of the column `image` or `img`, else of the only column of images; the
labels those of `label` or `labels`, else of the first column of classes. The library keeps
what it has downloaded and finds it again without a network; it runs no code of a data set.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ecood.data.decode import decode, decode_file, stack
from ecood.data.download import silent
from ecood.errors import InputError

__all__ = ["PREFIX", "load_images", "load_labels"]

PREFIX = "hf:"
TIMEOUT = 3.0  # seconds within which the hub must answer
NAME = re.compile(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:/(\w[\w.-]*))?")


def load_images(source: str, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The images of one split, uint8 [N, H, W, C]; see `ecood.data.Source`."""
    del name
    what = f"{source}, split {split}"
    with _rows(source, split, limit) as (datasets, rows):
        columns = [k for k, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        column = _first(("image", "img"), columns) or (columns[0] if len(columns) == 1 else None)
        if column is None:
            raise InputError(
                f"{what}, has the columns of images {', '.join(columns) or '(none)'}; expected "
                "image, img or a single one: use another data set."
            )
        encoded = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        named = ((f"{what}, row {i},", row[column]) for i, row in enumerate(encoded))
        return stack(((each, _decoded(file, each)) for each, file in named), len(rows))


def load_labels(source: str, name: str, split: str, limit: int | None = None) -> np.ndarray:
    """The labels that go with them, int64 [N]."""
    del name
    with _rows(source, split, limit) as (datasets, rows):
        classes = [k for k, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
        column = _first(("label", "labels"), rows.features) or next(iter(classes), None)
        labels = np.asarray(rows[column][:]) if column else np.array([])
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise InputError(
                f"{source}, split {split}, has no known labels among {', '.join(rows.features)}; "
                "expected one class, 0 or more, an image: use a data set with labels."
            )
        return labels.astype(np.int64)


def _first(wanted: tuple[str, ...], columns: Any) -> str | None:
    return next((name for name in wanted if name in columns), None)


def _decoded(file: dict[str, Any] | None, what: str) -> np.ndarray:
    if file is None:
        raise InputError(f"{what} has no image; expected one in every row: use another data set.")
    return (
        decode_file(file["path"])
        if file["bytes"] is None
        else decode(io.BytesIO(file["bytes"]), what)
    )


@contextlib.contextmanager
def _rows(source: str, split: str, limit: int | None) -> Iterator[tuple[Any, Any]]:
    """The library and the first `limit` rows of a split; all that goes wrong, in one sentence."""
    found = NAME.fullmatch(source)
    if found is None:
        raise InputError(
            f"{source} is no data set of the Hugging Face hub; expected hf:OWNER/NAME or "
            "hf:OWNER/NAME/CONFIG: check the name."
        )
    repository, config = found.groups()
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{source} is read by the library datasets, which is not installed; run "
            '`pip install "ecood[hf]"`, or `pip install datasets`.'
        ) from None
    try:
        with _no_long_waits(datasets.config):
            rows = datasets.load_dataset(repository, config, split=split)
        count = len(rows) if limit is None else min(limit, len(rows))
        if count == 0:
            raise InputError(f"{source}, split {split}, is empty; expected images.")
        yield datasets, rows.select(range(count))
    except InputError:
        raise
    except Exception as error:  # the library and those below it raise many types
        told = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}, split {split}, cannot be had ({type(error).__name__}: {told}); expected a "
            f"data set of images at https://huggingface.co/datasets/{repository} and a network, or "
            "a copy that the library has kept: check the name, the split and the network."
        ) from error


@contextlib.contextmanager
def _no_long_waits(config: Any) -> Iterator[None]:
    """Without a network the library tries for minutes before it takes the copy that it has kept."""
    if config.HF_HUB_OFFLINE or silent([config.HF_ENDPOINT], TIMEOUT) is None:
        yield
        return
    from huggingface_hub import constants

    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True  # what HF_HUB_OFFLINE=1 sets
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = False
