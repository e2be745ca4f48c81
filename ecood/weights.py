"""Trees of arrays on disk: safetensors, written atomically, checked against what is expected."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax
from flax import traverse_util

from ecood.errors import InputError

__all__ = ["atomic_directory", "atomic_path", "check_writable", "load", "match", "save"]

Tree = Mapping[str, Any]

# The format's names for what numpy and ml_dtypes call otherwise.
DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path in the folder of `path`, moved to `path` if the block succeeds.

    If the block raises, or the process dies, an older file at `path` stays as it was. If `path` is
    a link, what it points to is written.

    Raises:
      InputError: if the folder cannot be written.
    """
    path = pathlib.Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}); choose a folder that can be written."
        ) from error
    temporary = pathlib.Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"writing {path} failed ({error.strerror}); nothing was changed: free some space or "
            "choose another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike) -> None:
    """Refuses, before long work and without a trace, a path where no file could be written.

    Raises:
      InputError: for a directory, or in a folder that cannot be made or written.
    """
    path = pathlib.Path(os.path.realpath(path))
    if path.is_dir():
        raise InputError(f"cannot write {path} (it is a directory); give a file's name.")
    folder = next(parent for parent in path.parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise InputError(f"cannot write {path}; choose a folder that can be written.")


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary folder beside `path`, moved to `path` if the block succeeds.

    An older folder at `path` is moved away first, so that a reader finds one of them whole; if
    the block raises, it stays as it was. Of several processes that write one folder at once, the
    last one stays.

    Raises:
      InputError: if the folder cannot be written.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(
            f"cannot write to {path.parent} ({error.strerror}); choose another place."
        ) from error
    moved = [temporary]  # what is to be removed in the end
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        while not _put(temporary, path):
            moved.append(temporary.with_name(f"{temporary.name}.{len(moved)}"))
            with contextlib.suppress(FileNotFoundError):  # another process has moved it
                path.rename(moved[-1])
    except OSError as error:
        raise InputError(
            f"writing {path} failed ({error.strerror}); free some space or choose another place."
        ) from error
    finally:
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)


def _put(folder: pathlib.Path, path: pathlib.Path) -> bool:
    """Renames a folder to `path`; False if a folder with something in it is there."""
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save(path: str | os.PathLike, tree: Tree, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a nested dict of arrays as one safetensors file, atomically.

    Args:
      path: the file to write.
      tree: nested dicts of arrays; nested names are joined with "/".
      metadata: strings kept in the file's header.

    Raises:
      InputError: if the file cannot be written; an older file stays as it was.
    """
    flat = traverse_util.flatten_dict(dict(tree), sep="/")
    arrays = {name: jnp.asarray(leaf) for name, leaf in flat.items()}
    payload = safetensors.flax.save(arrays, metadata=dict(metadata or {}))
    with atomic_path(path) as temporary:
        temporary.write_bytes(payload)


def load(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads what `save` wrote. No code in the file is executed.

    Args:
      path: a safetensors file.

    Returns:
      (tree, metadata): nested dicts of numpy arrays, and the header's strings.

    Raises:
      InputError: if the file is missing or damaged.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"there is no weights file {path}; expected a safetensors file there.")
    try:
        payload = path.read_bytes()
        arrays = safetensors.deserialize(payload)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}); it is damaged or incomplete: "
            "copy or download it again."
        ) from error
    flat = {name: _array(name, stored, path) for name, stored in arrays}
    metadata = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    return traverse_util.unflatten_dict(flat, sep="/"), metadata.get("__metadata__") or {}


def _array(name: str, stored: Mapping[str, Any], path: pathlib.Path) -> np.ndarray:
    if stored["dtype"] not in DTYPES:
        raise InputError(
            f"{path} stores {name} as {stored['dtype']}; expected one of {', '.join(DTYPES)}."
        )
    dtype = jnp.dtype(DTYPES[stored["dtype"]])
    return np.frombuffer(stored["data"], dtype).reshape(stored["shape"])


def match(tree: Tree, template: Tree, what: str) -> dict[str, Any]:
    """Returns `tree` if it has the names, shapes and dtypes of `template`.

    Args:
      tree: nested dicts of arrays.
      template: the same, of arrays or `jax.ShapeDtypeStruct`s.
      what: how to call the weights in the message.

    Raises:
      InputError: naming the first difference.
    """
    given = traverse_util.flatten_dict(dict(tree), sep="/")
    wanted = traverse_util.flatten_dict(dict(template), sep="/")
    problem = None
    for name, leaf in wanted.items():
        if name not in given:
            problem = f"{name} is missing"
        elif tuple(given[name].shape) != tuple(leaf.shape):
            problem = f"{name} has shape {list(given[name].shape)}, expected {list(leaf.shape)}"
        elif given[name].dtype != leaf.dtype:
            problem = f"{name} is {given[name].dtype}, expected {leaf.dtype}"
        if problem:
            break
    else:
        extra = [name for name in given if name not in wanted]
        problem = f"{extra[0]} is not part of the model" if extra else None
    if problem:
        raise InputError(
            f"the weights of {what} do not match the model: {problem}; use the weights that were "
            "saved for this architecture."
        )
    return jax.tree.map(jnp.asarray, dict(tree))
