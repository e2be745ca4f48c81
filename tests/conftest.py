"""What all tests share: strict shapes, and programs that are compiled fast, once, and freed."""

import importlib.metadata
import os
import pathlib
import signal
import threading
import time

import pytest

# Nearly all of the tests' time was compilation, of programs that then run once on a few small
# images. Without LLVM's optimisations and the fusion emitters it takes a quarter of that, and a
# fifth less without splitting each for several threads. What is computed is the same up to
# rounding; XLA_FLAGS in the environment goes first, so that `XLA_FLAGS= python -m pytest` tests
# what XLA compiles for users.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if [int(n) for n in importlib.metadata.version("jaxlib").split(".")[:2]] < [0, 11]:
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # later ones stop at it
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# Workers, the processes that tests start, and the next run find what is compiled already.
COMPILED = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process compiles all sources, too

# A shell has what it starts in the background ignore interruptions, and that is inherited: by the
# commands that tests start and interrupt, too.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402, which reads these once

from ecood import batches  # noqa: E402

# An accidental broadcast of [B] against [B, 1] is an error, not a slow wrong answer.
jax.config.update("jax_numpy_rank_promotion", "raise")

WEEK = 7 * 24 * 60 * 60
MAPS = pathlib.Path("/proc/self/maps")
MOST_MAPS = 40_000


def pytest_configure(config):
    """Drops the compiled programs that no test has asked for in a week."""
    # Left to xdist, files of few tests come last; they are the long ones, and one worker waits.
    config.option.loadscopereorder = False
    if not hasattr(config, "workerinput"):
        for path in COMPILED.glob("*"):
            if path.stat().st_atime < time.time() - WEEK:
                path.unlink(missing_ok=True)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Before they fill the 65,530 memory maps that Linux grants a process; each takes some."""
    yield
    if not MAPS.exists() or MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        batches.forget_programs()
