"""Public weights: from a local file, or the Hugging Face hub; and whether they fit."""

import functools
import hashlib
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ecood import torch_file, weights
from ecood.errors import InputError

__all__ = ["check_sha256", "find", "fit", "read"]

FILE = "model.safetensors"

# PyTorch's axes in the order of linen's, of dense layers and convolutions by rank.
AXES = {2: (1, 0), 4: (2, 3, 1, 0)}


def find(source: str | os.PathLike, sha256: str | None = None) -> pathlib.Path:
    """The weights file that `source` names.

    That is a file; a folder that holds `model.safetensors`; or a name on the Hugging
    Face hub, e.g. "microsoft/resnet-18", downloaded once. Raises `InputError` if it
    cannot be had, or its SHA-256 is another than given.
    """
    path = pathlib.Path(source)
    if os.path.isdir(path):
        path = path / FILE
    if not os.path.isfile(path):
        path = _download(str(source))
    if sha256 is not None:
        check_sha256(path, sha256)
    return path


def _download(name: str) -> pathlib.Path:
    where = (
        f"download https://huggingface.co/{name}/resolve/main/{FILE} where there is a network, "
        "and give the path of that file here"
    )
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(
            f"there is no weights file {name}; expected a safetensors or PyTorch file, a folder "
            f"with {FILE}, or a name on the Hugging Face hub such as microsoft/resnet-18."
        )
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"{name} is no local file, and huggingface_hub, which would fetch it, is not "
            f"installed; run `pip install huggingface_hub`, or {where}."
        ) from None
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(name, FILE, etag_timeout=5))
    except Exception as error:  # network and hub fail in many ways, all of which end here
        raise InputError(
            f"{name} is no local file and cannot be fetched from the Hugging Face hub "
            f"({type(error).__name__}); {where}."
        ) from error


def check_sha256(path: str | os.PathLike, expected: str) -> None:
    """Refuses a file whose SHA-256 is not the expected one."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.lower():
        raise InputError(
            f"{path} has SHA-256 {found}, expected {expected}; it is damaged, or of another "
            "version: download it again."
        )


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """A flat file of arrays, safetensors or PyTorch's own; runs nothing in it."""
    if pathlib.Path(path).suffix in (".pth", ".pt", ".bin"):
        return torch_file.read_tensors(path)
    tree, _ = weights.load(path)
    return traverse_util.flatten_dict(tree, sep="/")


def fit(
    arrays: dict[str, np.ndarray], module: nn.Module, what: object, *, ignore: tuple[str, ...] = ()
) -> dict[str, Any]:
    """PyTorch's arrays as the float32 variables of `module`, whose names are PyTorch's.

    Convolutions are [out, in, k, k] and dense layers [out, in] in `arrays`, those of
    `what`; names that begin as in `ignore` are left out. Raises `InputError` about the
    first array that is missing, of another shape, not of floats, or unknown.
    """

    def wrong(problem: str) -> InputError:
        return InputError(
            f"the weights of {what} are not those of {type(module).__name__}: {problem}; use the "
            "file that was published for this network."
        )

    counter = "num_batches_tracked"
    left = {k: x for k, x in arrays.items() if not (k.startswith(ignore) or k.endswith(counter))}
    params = {}
    for path, leaf in _shapes(module).items():
        *names, last = path
        name = ".".join([*names, "weight" if last in ("kernel", "scale") else last])
        axes = AXES.get(leaf.ndim, tuple(range(leaf.ndim)))
        if name not in left:
            raise wrong(f"{name} is missing")
        array, expected = left.pop(name), [leaf.shape[axis] for axis in np.argsort(axes)]
        if list(array.shape) != expected:
            raise wrong(f"{name} has shape {list(array.shape)}, expected {expected}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise wrong(f"{name} is {array.dtype}, expected floats")
        params[path] = jnp.asarray(array.transpose(axes), jnp.float32)
    if left:
        raise wrong(f"{next(iter(left))} is not part of the network")
    return {"params": traverse_util.unflatten_dict(params)}


@functools.lru_cache(maxsize=8)
def _shapes(module: nn.Module) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Of a module's parameters, by their paths; tracing takes longer than reading a file."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    return traverse_util.flatten_dict(
        jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    )
