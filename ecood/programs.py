"""Compiled programs, kept on disk from one process to the next: JAX's cache, in the user's folder.

The command line and the experiments call `keep` before they compile anything, and so may you. The
programs are in `$XDG_CACHE_HOME/ecood`, or `~/.cache/ecood`, which may be deleted at any time.
`JAX_ENABLE_COMPILATION_CACHE=0` turns it off, `JAX_COMPILATION_CACHE_DIR` names another folder.

Some versions of XLA doubt their own CPU programs when they read them, in a long line on standard
error each, for features that are none of the CPU's. `TF_CPP_MIN_LOG_LEVEL=3`, set before jax is
imported, silences it; the command line and the experiments set it.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import warnings

import jax

__all__ = ["MOST", "keep", "shrink"]

MOST = 2**29  # bytes that a process leaves there, when it starts


def keep() -> None:
    """Lets JAX read the programs that an earlier process compiled, and write what this one does.

    Nothing happens if JAX was told what to do by its own settings, or where the folder cannot be
    made. Processes share it: what one of them cannot read, as another is just writing or deleting
    it, it compiles for itself.
    """
    config = jax.config
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    try:
        folder = _cache() / _processor()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shrink(folder.parent)
    except (OSError, RuntimeError):  # no home, or not to be written
        return
    words = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", words)  # another process's, or a full disk's
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _cache() -> pathlib.Path:
    given = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))  # a relative one does not count
    return (given if given.is_absolute() else pathlib.Path.home() / ".cache") / "ecood"


def _processor() -> str:
    """A name for all processors that run the same programs: a shared home has several."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = {line for line in lines if line.lower().startswith(("flags", "features"))}
    known = "\n".join([platform.machine(), platform.processor(), *sorted(features)])
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def shrink(cache: pathlib.Path) -> None:
    """Deletes the programs that were not read for longest, down to `MOST` bytes.

    JAX's own bound, `jax_compilation_cache_max_size`, needs a further package, takes a lock at each
    reading, and reads nothing where it cannot write.
    """
    with contextlib.suppress(FileNotFoundError):  # another process does the same
        found = [(path.stat(), path) for path in cache.glob("*/*-cache")]
        found.sort(key=lambda each: max(each[0].st_atime, each[0].st_mtime))
        excess = sum(status.st_size for status, _ in found) - MOST
        while excess > 0:
            status, path = found.pop(0)
            path.unlink()
            excess -= status.st_size
