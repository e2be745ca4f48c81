"""Trees of arrays on disk: safetensors, written atomically, checked when matched.

A tree is nested dicts of arrays; in a file, nested names are joined with "/". What
fails raises an `InputError`, and an older file or folder stays. Of processes that compute
together (`ecood.hosts`), what the first one writes stays, and what the others write is dropped.
"""

import contextlib
import errno
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax
from flax import traverse_util

from ecood import hosts
from ecood.errors import InputError, check_path, is_special

__all__ = [
    "atomic_directory",
    "atomic_path",
    "check_writable",
    "hidden",
    "is_stream",
    "load",
    "match",
    "only_writer",
    "open_stream",
    "save",
    "write_together",
]

Tree = Mapping[str, Any]

# safetensors' own loader for numpy knows no floats of 8 bits.
STORED = "BOOL U8 I8 U16 I16 U32 I32 U64 I64 F8_E4M3 F16 BF16 F32 F64"
LOADED = "bool u1 i1 u2 i2 u4 i4 u8 i8 float8_e4m3fn f2 bfloat16 f4 f8"
MOST_LINKS = 40  # one after another that the system follows
HIDDEN = 32  # letters of a path's name in those of hidden files beside it
DTYPES = dict(zip(STORED.split(), LOADED.split(), strict=True))


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the path of a file to write, moved to `path` if the block succeeds.

    If it raises, or the process dies, an older file stays. A link's target is written; what
    `is_stream` is given the content, and is never replaced.
    """
    path = _real(path)
    with _beside(path) as folder:
        yield folder / path.name
        if not hosts.is_first():
            return
        if is_stream(path):
            with (folder / path.name).open("rb") as source, open_stream(path, "wb") as target:
                shutil.copyfileobj(source, target)
        else:
            os.replace(folder / path.name, path)


def write_together(files: Mapping[pathlib.Path, Callable[[pathlib.Path], None]]) -> None:
    """Writes files, each by a function of where; when all are whole they appear, else none does."""
    with contextlib.ExitStack() as whole:
        # Those entered last are left first: a device may refuse what it is given.
        for path in sorted(files, key=is_stream):
            files[path](whole.enter_context(atomic_path(path)))


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a folder to fill, moved to `path` if the block succeeds.

    An older folder is moved away first; between the two renames a reader finds none, and
    tries again (`ecood.score.load` does). Of several processes that write one folder at
    once, the last one stays. A link's target is written.
    """
    given, path = path, _real(path)
    _check_movable(given, path)
    with _beside(path) as folder:
        new = folder / "new"
        new.mkdir()
        yield new
        if not hosts.is_first():
            return
        for turn in itertools.count():
            try:
                new.rename(path)
                return
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            with contextlib.suppress(FileNotFoundError):  # another process has moved it
                path.rename(folder / str(turn))


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder next to `path`, removed in the end with all that was moved into it."""
    if not hosts.is_first():
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)
        return
    problem, advice = f"cannot write {path}", "choose a folder that can be written"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{hidden(path, '').name}",
            dir=None if is_stream(path) else path.parent,
            ignore_cleanup_errors=True,
        ) as folder:
            problem = f"writing {path} failed"
            advice = "nothing was changed: free some space or choose another folder"
            yield pathlib.Path(folder)
    except BrokenPipeError:  # whoever reads the output closed it
        raise
    except OSError as error:
        raise InputError(f"{problem} ({error.strerror}); {advice}.") from error


def check_writable(path: str | os.PathLike, *, folder: bool = False) -> None:
    """Refuses, before long work, a path where no file, or no folder, could be written."""
    if os.fspath(path) == "-":
        raise InputError("cannot write - (it stands for standard output); give another name.")
    given, path = path, _real(path)
    try:
        path.exists()
        if (number := _descriptor(path)) is not None:
            os.write(number, b"")
    except OSError as error:  # its name is too long, or it is no open file, say
        raise InputError(f"cannot write {given} ({error.strerror}); give another name.") from error
    if folder:
        _check_movable(given, path)
    if path.is_dir() and not folder:
        raise InputError(f"cannot write {given} (it is a directory); give a file's name.")
    if is_stream(path):
        return
    place = next(each for each in (path, *path.parents) if each.exists())
    if folder and place == path and not path.is_dir():
        raise InputError(f"cannot write {given} (it is a file); give a folder's name.")
    try:
        tempfile.TemporaryFile(dir=path.parent if place == path and not folder else place).close()
    except OSError as error:
        raise InputError(
            f"cannot write {given} ({error.strerror}); choose a folder that can be written."
        ) from error


def is_stream(path: str | os.PathLike) -> bool:
    """Whether a path to write is a pipe, a device, or an open file of this process.

    Such a one is written to; it has no place where another file could take its.
    """
    return is_special(path) or _descriptor(path) is not None


def open_stream(path: str | os.PathLike, mode: str, **options: Any) -> IO[Any]:
    """Opens what `is_stream`; an open file goes on where it is, as standard output does."""
    number = _descriptor(path)
    return open(path if number is None else os.dup(number), mode, **options)


def _descriptor(path: str | os.PathLike) -> int | None:
    """The number of this process's open file that a path names, as /dev/stdout and /dev/fd/3 do.

    Asked before links are followed: the link from there leads to the file that it was opened from.
    """
    place, own = os.path.abspath(path), ("/dev/fd", f"/proc/{os.getpid()}/fd")
    for _ in range(MOST_LINKS):
        folder, name = os.path.split(place)
        if name.isdecimal() and os.path.realpath(folder) in own:
            return int(name)
        if not os.path.islink(place):
            break
        place = os.path.abspath(os.path.join(folder, os.readlink(place)))
    return None


def _real(path: str | os.PathLike) -> pathlib.Path:
    """The path without links, or as it is if `is_stream`."""
    check_path(path)
    try:
        return pathlib.Path(path if is_stream(path) else os.path.realpath(path))
    except ValueError as error:
        raise InputError(
            f"cannot write {os.fspath(path)!r} ({error}); give another name."
        ) from error


def hidden(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """A hidden path beside another, named after it, that is no longer than a name may be."""
    return path.with_name(f".{path.name[:HIDDEN]}.{suffix}")


def _check_movable(given: str | os.PathLike, path: pathlib.Path) -> None:
    """Refuses a folder, `path` its real path, in whose place no other one can be put."""
    for what, wrong in (
        ("the current directory", path == pathlib.Path(os.path.realpath("."))),
        ("where a file system is mounted", os.path.ismount(path)),
    ):
        if wrong:
            raise InputError(f"cannot write {given} (it is {what}); name a folder in it.")


def only_writer(file: IO) -> bool | None:
    """Whether this process holds the file's lock, until it is closed or the process ends.

    None where there are no locks, on Windows and on some file systems: there it is left to the
    user.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        return None
    return True


def save(path: str | os.PathLike, tree: Tree, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a tree as one safetensors file, with `metadata` in its header."""
    flat = traverse_util.flatten_dict(dict(tree), sep="/")
    arrays = {name: jnp.asarray(leaf) for name, leaf in flat.items()}
    payload = _with_metadata(safetensors.flax.save(arrays), dict(metadata or {}))
    with atomic_path(path) as temporary:
        temporary.write_bytes(payload)


def _with_metadata(payload: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with metadata, which its own writer puts in another order each time."""
    end = 8 + int.from_bytes(payload[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items()))} | json.loads(payload[8:end])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays stay aligned
    return len(text).to_bytes(8, "little") + text + payload[end:]


def load(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads (tree, metadata), arrays as numpy's; executes no code in the file."""
    check_path(path)
    path = pathlib.Path(path)
    if not os.path.isfile(path):
        raise InputError(f"there is no weights file {path}; expected a safetensors file there.")
    try:
        payload = path.read_bytes()
        stored = dict(safetensors.deserialize(payload))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected a safetensors file that you may "
            "read: check its permissions."
        ) from error
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}); it is damaged or incomplete: "
            "copy or download it again."
        ) from error
    for name, array in stored.items():
        if array["dtype"] not in DTYPES:
            raise InputError(
                f"{path} stores {name} as {array['dtype']}; expected one of {', '.join(DTYPES)}."
            )
        dtype = jnp.dtype(DTYPES[array["dtype"]])
        stored[name] = np.frombuffer(array["data"], dtype).reshape(array["shape"])
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    if twice := {name for name in stored if any(n.startswith(f"{name}/") for n in stored)}:
        raise InputError(
            f"{path} has {min(twice)} as an array and as a group of arrays; it is damaged."
        )
    return traverse_util.unflatten_dict(stored, sep="/"), header.get("__metadata__") or {}


def match(tree: Tree, template: Tree, what: str) -> dict[str, Any]:
    """`tree`, if names, shapes and dtypes are those of `template`; `what` names it."""
    given, wanted = (traverse_util.flatten_dict(dict(t), sep="/") for t in (tree, template))
    if problem := next(_differences(given, wanted), None):
        raise InputError(
            f"the weights of {what} do not match the model: {problem}; use the weights that were "
            "saved for this architecture."
        )
    return jax.device_put(dict(tree))


def _differences(given: Tree, wanted: Tree) -> Iterator[str]:
    for name, leaf in wanted.items():
        if name not in given:
            yield f"{name} is missing"
        elif tuple(given[name].shape) != tuple(leaf.shape):
            yield f"{name} has shape {list(given[name].shape)}, expected {list(leaf.shape)}"
        elif given[name].dtype != leaf.dtype:
            yield f"{name} is {given[name].dtype}, expected {leaf.dtype}"
    yield from (f"{name} is not part of the model" for name in given if name not in wanted)
