"""Processes that compute together by `jax.distributed`: how they meet, agree, and end.

Each runs the same program on the same inputs, and every computation of ecood is shared by all
their devices. The command line (score, report, fit) and the experiments join by themselves where
the environment has `JAX_COORDINATOR_ADDRESS`, host:port of the first process; `JAX_NUM_PROCESSES`
and `JAX_PROCESS_ID` say how many there are and which one this is, unless JAX finds that out by
itself, as on Cloud TPU, Slurm and Open MPI. The first one writes files and talks.
"""

import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ecood.errors import InputError, out_of_memory, readable

__all__ = ["agree", "is_first", "together"]

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# How the errors of collectives and of the coordination service begin, or what they contain.
LOST = re.compile(r"gloo|nccl|coordination|barrier|peer|UNAVAILABLE|DEADLINE_EXCEEDED", re.I)


def is_first() -> bool:
    """Whether this process is the one that writes: alone, or the first of several."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def agree(value: Any) -> Any:
    """The first process's value, of what JSON can say, in all of them."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = text if is_first() else np.zeros(size, np.uint8)
    return json.loads(np.uint8(multihost_utils.broadcast_one_to_all(text)).tobytes())


@contextlib.contextmanager
def together(program: str) -> Iterator[None]:
    """Joins the processes that the environment tells of, if it does, for a block of work.

    It comes before anything else of JAX. What all but the first would print is dropped. A process
    that cannot go on leaves at once with a sentence that begins with the program's name, and exit
    code 2: the others, which wait for its part, find it gone and do so, too. Where the first ends
    without a word, killed or cut off, JAX itself may be quicker and abort them in its own words.

    Raises:
      InputError: if the others cannot be found.
    """
    if ADDRESS not in os.environ:
        yield
        return
    _join()
    with contextlib.ExitStack() as stack:
        if not is_first():
            nowhere = stack.enter_context(open(os.devnull, "w", errors="backslashreplace"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            yield
            multihost_utils.sync_global_devices("all is done")
            return
        except Exception as error:
            failure = error
    told = out_of_memory(failure) or str(failure)
    if not isinstance(failure, InputError | OSError) and told == str(failure):
        if LOST.search(told):
            told = (
                f"another process of this run has ended ({_line(failure)}); see what it said, and "
                "run the same command in all of them again: training resumes where it was saved."
            )
        else:
            traceback.print_exception(failure)
    print(f"{program}: {readable(told)}", file=sys.stderr, flush=True)
    os._exit(2)  # the interpreter's own end would wait for the others


def _join() -> None:
    """Meets the others."""
    try:
        given = {name: int(os.environ[name]) for name in (COUNT, INDEX) if name in os.environ}
        print(f"waiting for the other processes at {os.environ[ADDRESS]}", file=sys.stderr)
        jax.distributed.initialize(num_processes=given.get(COUNT), process_id=given.get(INDEX))
        with _standard_output_elsewhere():
            multihost_utils.sync_global_devices("all are here")
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        told = ", ".join(f"{name}={os.environ.get(name, '')}" for name in (ADDRESS, COUNT, INDEX))
        raise InputError(
            f"the processes of this run did not meet ({_line(error)}), with {told}; expected "
            "host:port of the first process, how many there are, and which one this is, from 0: "
            "correct them, or unset the first to compute alone."
        ) from error


@contextlib.contextmanager
def _standard_output_elsewhere() -> Iterator[None]:
    """Gloo prints that it is connected, where scores may go."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _line(error: Exception) -> str:
    return str(error).split("\n")[0]
