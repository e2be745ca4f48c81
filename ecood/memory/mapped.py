"""A bank larger than memory: it stays in its file, and is searched a part at a time."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from ecood.encoders import Encoder
from ecood.errors import InputError, check_whole
from ecood.memory.bank import STORAGE, check_encoder
from ecood.memory.search import check_rows, nearest_similarity

__all__ = ["nearest_similarity_mapped", "open_bank"]

ROWS = 2**17  # of the bank in memory at a time
_search = jax.jit(nearest_similarity)


def open_bank(path: str | os.PathLike, encoder: Encoder) -> np.ndarray:
    """The rows [N, d] of a bank that `memory.save` wrote, mapped from the file and not read.

    Raises `InputError` for a file that is no bank, or of another encoder's.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < 2**20 else {}
        rows, metadata = header["embeddings"], header["__metadata__"]
        dtype = {"F32": "float32", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}[rows["dtype"]]
        start, shape = 8 + size + rows["data_offsets"][0], tuple(rows["shape"])
        bank = np.memmap(path, jnp.dtype(dtype), "r", start, shape)
        if bank.ndim != 2:
            raise ValueError(f"it holds an array {list(shape)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a memory bank ({error}); expected a file that memory.save wrote, "
            f"one array [N, d] of {', '.join(STORAGE)}."
        ) from error
    check_encoder(path, metadata, encoder)
    return bank


def nearest_similarity_mapped(
    bank: np.ndarray, embeddings: jax.Array | np.ndarray, *, rows: int = ROWS
) -> np.ndarray:
    """The similarity s of `memory.nearest_similarity`, by a bank that is not in memory.

    Exact: the largest of the parts' largest. One part of the bank is on the device at a time, by
    one compiled program, so give many queries at once: each call reads the whole file.

    Args:
      bank: [N, d], unit norm, anything that numpy slices: of `open_bank`, or
        `numpy.load(path, mmap_mode="r")`.
      embeddings: float [B, d], unit norm.
      rows: of the bank in memory at a time.

    Returns:
      float32 [B]; NaN from NaN.

    Raises:
      InputError: for an empty bank, embeddings of another width, or no rows.
    """
    check_whole("rows", rows)
    check_rows(bank, embeddings)
    rows, best = min(rows, len(bank)), None
    for start in range(0, len(bank), rows):
        start = min(start, len(bank) - rows)  # the last part overlaps the one before
        found = np.asarray(_search(np.asarray(bank[start : start + rows]), embeddings))
        best = found if best is None else np.maximum(best, found)
    return best
