"""Running one compiled program over any number of images: padded batches, bounded memory."""

import contextlib
import contextvars
import functools
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ecood import devices
from ecood.errors import InputError

__all__ = ["BATCH_SIZE", "batches", "forget_programs", "map_images", "watched"]

BATCH_SIZE = 64
_watching: contextvars.ContextVar = contextvars.ContextVar("watching", default=None)
_processes: set[int] = set()  # that have run a program; a fork's child inherits them


def batches(images: Any, size: int) -> Iterator[tuple[Any, int]]:
    """Yields (batch, n): `size` images each, of which the first n are real."""
    total = len(jax.tree.leaves(images)[0])
    for start in range(0, total, size):
        n = min(size, total - start)
        rows = np.minimum(np.arange(size), n - 1) + start if n < size else slice(start, start + n)
        yield jax.tree.map(lambda leaf, rows=rows: leaf[rows], images), n


@functools.lru_cache(maxsize=128)
def _jitted(function: Callable, placement: devices.Placement | None) -> Callable:
    """The same jitted function at each call, so that nothing is compiled twice."""
    return jax.jit(function, out_shardings=placement and placement.everywhere)


def forget_programs() -> None:
    """Frees the compiled programs of this process; what is needed compiles again.

    For processes that compile thousands: on a CPU they exhaust the memory maps that
    Linux grants a process, and the next compilation fails.
    """
    jax.clear_caches()
    _jitted.cache_clear()
    gc.collect()


@contextlib.contextmanager
def watched(progress: Callable[[int], None]) -> Iterator[None]:
    """Within the block `progress` is called by each `map_images` that is given none of its own.

    For what is long only to people, as fitting is, whose functions need not hand it on.
    """
    token = _watching.set(progress)
    try:
        yield
    finally:
        _watching.reset(token)


def _check_fork() -> None:
    if _processes and os.getpid() not in _processes:
        raise InputError(
            "this process was forked from one that had used JAX, whose threads it lacks, and would "
            "hang; start processes with multiprocessing.get_context('spawn')."
        )
    _processes.add(os.getpid())


@devices.without_mesh()
def map_images(
    function: Callable[..., Any],
    *arguments: Any,
    images: Any,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """Computes `function(*arguments, images)` by one program, in padded batches.

    The function is pure, to a pytree of [B, ...] arrays, each row a function of its own
    image alone. Images are uint8 [N, H, W, C], N >= 1, or a pytree of arrays [N, ...],
    and so are the results, in numpy. The next batch is dispatched before the last one's
    results are read; memory is bounded by two batches and the results. Devices share
    each batch as `ecood.devices.follow` says; it has a few images more if they could
    not do so evenly. `progress` is called with the number of images done since its last
    call. Give the same function each time, or an equal one: a lambda or a new `partial` in
    a loop is compiled anew each time.
    """
    _check_fork()
    progress = progress or _watching.get()
    placement = devices.follow(arguments)
    if placement is None:
        arguments = devices.loosen(arguments)
    else:
        arguments = placement.replicate(arguments)
        batch_size += -batch_size % placement.count
    run = _jitted(function, placement)
    pending, done = [], []

    def collect() -> None:
        outputs, n = pending.pop(0)
        done.append(jax.tree.map(lambda leaf: np.asarray(leaf)[:n], outputs))
        if progress is not None:
            progress(n)

    for batch, n in batches(images, batch_size):
        if placement is not None:
            batch = placement.split(batch)
        pending.append((run(*arguments, batch), n))
        if len(pending) > 1:
            collect()
    collect()
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *done)
