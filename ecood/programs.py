"""Compiled programs, kept on disk from one process to the next: JAX's cache, in the user's folder.

The command line and the experiments call `keep` before they compile anything, and so may you. The
programs are in `$XDG_CACHE_HOME/ecood`, or `~/.cache/ecood`, which may be deleted at any time.
`JAX_ENABLE_COMPILATION_CACHE=0` turns it off, `JAX_COMPILATION_CACHE_DIR` names another folder.

To find a compiled program JAX needs the traced one, and tracing takes longer than reading. So
beside them lies what tracing gave (`read`, `write`), under names (`name`) that change with the code
of ecood, the packages installed and JAX's settings.

Some versions of XLA doubt their own CPU programs when they read them, in a long line on standard
error each, for features that are none of the CPU's. `TF_CPP_MIN_LOG_LEVEL=3`, set before jax is
imported, silences it; the command line and the experiments set it.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import platform
import sys
import time
import warnings
import zlib
from typing import Any

import jax

__all__ = ["MOST", "keep", "name", "read", "shapes", "shrink", "write"]

MOST = 2**29  # bytes that a process leaves there, when it starts
ZSTD = b"\x28\xb5\x2f\xfd"  # how what it compresses begins
WRITING = 60.0  # seconds after which nobody writes an entry any more


def keep() -> None:
    """Lets JAX read the programs that an earlier process compiled, and write what this one does.

    Nothing happens if JAX was told what to do by its own settings, or where the folder cannot be
    made. Processes share it: what one of them cannot read, as another is just writing or deleting
    it, it compiles for itself. What a full disk or a kill left of an entry is deleted.
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
    with contextlib.suppress(OSError):  # it may be read alone
        _mend(folder)
    words = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", words)  # another process's, or a full disk's
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", 0)
    _installed()  # of the code that this process has just read


def name(what: str, *facts: Any) -> str | None:
    """The name under which what follows from these facts, JSON values, is kept; None if none is."""
    given = jax.config.jax_compilation_cache_dir
    if given is None or not jax.config.jax_enable_compilation_cache:
        return None
    if pathlib.Path(given).parent != _cache():  # another's, by JAX's own settings
        return None
    settings = {each: str(getattr(jax.config, each, None)) for each in jax.config.values}
    known = json.dumps([_installed(), settings, str(jax.devices()), *facts], sort_keys=True)
    return f"{what}-{hashlib.sha256(known.encode()).hexdigest()}-cache"


def read(name: str | None) -> bytes | None:
    """What was written under a name, or None."""
    with contextlib.suppress(OSError):
        if name is not None:
            return (pathlib.Path(jax.config.jax_compilation_cache_dir) / name).read_bytes()
    return None


def write(name: str | None, content: bytes) -> None:
    """Keeps it, whole or not at all."""
    if name is None:
        return
    path = pathlib.Path(jax.config.jax_compilation_cache_dir) / name
    written = path.with_name(f"{name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            written.write_bytes(content)
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)


def shapes(tree: Any) -> list[str]:
    """Place, dtype and shape of each array of a pytree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}" for path, leaf in leaves]


@functools.cache
def _installed() -> str:
    """Tells this code, these packages and this Python from all others."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    for place in sys.path:
        for path in sorted(pathlib.Path(place).glob("*.dist-info")):
            digest.update(path.name.encode())
    return digest.hexdigest()


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


def _mend(folder: pathlib.Path) -> None:
    """Deletes entries that were not written to their end, which JAX would never replace.

    JAX writes its own in place, and `write` under another name. Each is looked at once.
    """
    if not os.access(folder, os.W_OK):
        return
    mark, now = folder / "looked_at", time.time()
    since = mark.stat().st_mtime if mark.exists() else -WRITING
    for path in (*folder.glob("jit_*-cache"), *folder.glob("*-cache.*")):
        with contextlib.suppress(OSError):  # another process does the same
            new = since - WRITING <= path.stat().st_mtime < now - WRITING
            if new and not (path.name.endswith("-cache") and _is_whole(path.read_bytes())):
                path.unlink()
    mark.touch()
    os.utime(mark, (now, now))


def _is_whole(content: bytes) -> bool:
    unpacked = zlib.decompressobj()
    if content.startswith(ZSTD):
        try:
            import zstandard  # JAX takes it where it is installed
        except ImportError:
            return False  # JAX cannot read it either
        unpacked = zstandard.ZstdDecompressor().decompressobj()
    with contextlib.suppress(Exception):  # of each package's own types
        unpacked.decompress(content)
    return unpacked.eof


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
