"""The memory bank's search against faiss-cpu's `IndexFlatIP`."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecood import memory
from ecood.errors import InputError
from experiments.speed import timing

__all__ = ["rows", "search"]

BANKS = (50_000, 1_000_000)
QUERIES, FEATURES = 1_000, 384


def rows() -> list[dict[str, Any]]:
    """A search of each size.

    Raises:
      InputError: if faiss is not installed.
    """
    return [search(size) for size in BANKS]


def search(size: int) -> dict[str, Any]:
    """Nearest similarity of all queries in a random bank of `size` embeddings of unit norm.

    The row also tells what the search adds to the memory that bank and queries take, in bytes:
    `peak_bytes` as the operating system saw it (None where it does not tell), `temporary_bytes`
    as XLA planned it.

    Raises:
      InputError: if faiss is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise InputError(
            "faiss, to compare with, is not installed; run `pip install faiss-cpu`."
        ) from None
    rng = np.random.default_rng(0)
    queries, bank = (_unit(rng, count) for count in (QUERIES, size))
    index = faiss.IndexFlatIP(FEATURES)
    index.add(bank)
    ours = jax.block_until_ready((jnp.asarray(bank), jnp.asarray(queries)))
    del bank
    program = jax.jit(memory.nearest_similarity).lower(*ours).compile()
    peak = _peak_growth(lambda: program(*ours).block_until_ready())
    found = np.asarray(program(*ours))
    expected = index.search(queries, 1)[0][:, 0]
    seconds = timing.take_turns(
        lambda: program(*ours).block_until_ready(), lambda: index.search(queries, 1)
    )
    return timing.row(
        f"search {QUERIES} x {size:,} x {FEATURES}",
        "faiss IndexFlatIP",
        "s",
        *seconds,
        temporary_bytes=program.memory_analysis().temp_size_in_bytes,
        peak_bytes=peak,
        bank_bytes=ours[0].nbytes,
        largest_difference=float(np.abs(found - expected).max()),
    )


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    x = rng.standard_normal((count, FEATURES), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def _peak_growth(work: Callable[[], Any]) -> int | None:
    """By how many bytes the process's resident memory grows at most during the work; Linux only."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = _resident("VmRSS")
        work()
        return _resident("VmHWM") - before
    except OSError:
        return None


def _resident(name: str) -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])
