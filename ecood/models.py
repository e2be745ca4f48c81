"""A model is one pytree: its architecture is static, its variables are the leaves.

`jax.jit` compiles once for an architecture, so a `Flow` or `Encoder` that is read
again, trained on, or of another seed compiles nothing anew. It is stored as one
safetensors file: the variables, the architecture as JSON in the header, and the
fingerprints of the images that it was trained on (`ecood.splits.remember`). No code in
a file is executed: it can only name its reader's `kinds`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood import programs, weights
from ecood.errors import InputError

__all__ = [
    "PRETRAINED",
    "Stored",
    "build",
    "check_linen",
    "describe",
    "identity",
    "read",
    "size",
    "template",
    "write",
]

PRETRAINED = pathlib.Path(__file__).parent / "pretrained"  # what comes with the package
Architecture = Mapping[str, Any]
TRAINED_ON = "trained_on"  # beside the collections of the variables


class Stored(NamedTuple):
    """What a model's file holds."""

    module: nn.Module
    variables: Any  # None where the file refers to weights that are installed
    trained_on: np.ndarray | None  # uint32 [M, 2], or None if not known
    name: str | None
    metadata: dict[str, str]  # the other strings of the header


def describe(module: Any, kinds: Iterable[type[nn.Module]]) -> dict[str, Any] | None:
    """A module's class and attributes as JSON values; None if it is not listed."""
    if type(module) not in tuple(kinds):
        return None
    fields = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    attributes = {name: getattr(module, name) for name in fields}
    if "dtype" in attributes:
        attributes["dtype"] = jnp.dtype(attributes["dtype"]).name
    return {"kind": type(module).__name__, "attributes": attributes}


def check_linen(module: Any, *, or_function: bool = False) -> None:
    """Refuses what is no linen module, nor, if that will do, a function."""
    of_nnx = any(kind.__module__.startswith("flax.nnx") for kind in type(module).__mro__)
    if of_nnx or not (isinstance(module, nn.Module) or (or_function and callable(module))):
        expected = "a linen module" + " or a function" * or_function
        advice = "; of an nnx one make a pure function by nnx.split and nnx.merge" * of_nnx
        raise InputError(f"a {type(module).__name__} was given; expected {expected}{advice}.")


def size(variables: Any) -> int:
    """How many numbers are trained: of a linen module those of `params`, else all."""
    trained = variables.get("params", variables) if isinstance(variables, Mapping) else variables
    return sum(np.size(leaf) for leaf in jax.tree.leaves(trained))


def identity(model: Any) -> str:
    """SHA-256 over a flow's or encoder's variables and its name, if it has one.

    Variables that are not JAX's, such as PyTorch's, are in its function's `digest`.
    """
    function = getattr(model, "function", None)
    digest = hashlib.sha256(getattr(model, "name", "").encode())
    digest.update(getattr(function, "digest", "").encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.variables):
        array = np.asarray(jnp.asarray(leaf))  # as JAX computes with it, and as it is written
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def build(architecture: Any, kinds: Iterable[type[nn.Module]]) -> nn.Module:
    """The module that `describe` described, or an `InputError`."""
    known = {kind.__name__: kind for kind in kinds}
    given = dict(architecture) if isinstance(architecture, Mapping) else {}
    kind = given.pop("kind", None)
    if not (isinstance(kind, str) and kind in known):
        raise InputError(
            f"the model is of kind {kind!r}; this version of ecood knows {', '.join(known)}."
        )
    given.pop("name", None)
    attributes = given.pop("attributes", given)  # ecood 0.1 wrote a flow's beside its kind
    try:
        attributes = {name: _tuples(value) for name, value in attributes.items()}
        if "dtype" in attributes:
            attributes["dtype"] = jnp.dtype(attributes["dtype"]).type
        return known[kind](**attributes)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _no_model(architecture, error) from None


def _no_model(architecture: Architecture, error: Exception) -> InputError:
    reason = [*str(error).splitlines(), type(error).__name__][0]
    return InputError(
        f"the architecture {architecture} does not describe a {architecture['kind']} ({reason}); "
        "the file was written by another version or is damaged."
    )


def _tuples(value: Any) -> Any:
    """JSON knows no tuples, and linen hashes its attributes."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def write(
    path: str | os.PathLike,
    architecture: Architecture,
    variables: Mapping[str, Any],
    *,
    trained_on: Any = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes what `describe` returned, maybe with a name, and more header strings."""
    remembered = {} if trained_on is None else {TRAINED_ON: trained_on}
    header = {"architecture": json.dumps(architecture)}
    weights.save(path, dict(variables) | remembered, dict(metadata or {}) | header)


def read(
    path: str | os.PathLike,
    kinds: Iterable[type[nn.Module]],
    example: Callable[[nn.Module], jax.ShapeDtypeStruct],
) -> Stored:
    """Reads what `write` wrote; `init` starts from the batch `example(module)`.

    Raises `InputError` for a damaged file, another kind, or variables of another
    module.
    """
    kinds = tuple(kinds)
    variables, metadata = weights.load(path)
    try:
        architecture = json.loads(metadata.pop("architecture"))
        name = architecture.get("name")
    except (AttributeError, KeyError, ValueError):
        wanted = ", ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"{path} does not say which model it holds; expected a file that ecood wrote, of one "
            f"of {wanted}."
        ) from None
    trained_on = variables.pop(TRAINED_ON, None)
    if trained_on is not None:
        if np.ndim(trained_on) != 2 or np.shape(trained_on)[1] != 2:
            raise InputError(
                f"{path} holds no fingerprints [M, 2] under {TRAINED_ON}; it is damaged: copy or "
                "download it again."
            )
        trained_on = np.array(trained_on, np.uint32)
    module = build(architecture, kinds)
    if "identity" in metadata and not variables:
        return Stored(module, None, trained_on, name, metadata)
    fits = programs.name("fits", describe(module, kinds), programs.shapes(variables))
    ours = PRETRAINED.resolve() in pathlib.Path(path).resolve().parents  # they fit: tests see to it
    if not ours and programs.read(fits) is None:  # tracing takes longer than all else here
        variables = weights.match(variables, _fitting(module, example, architecture), str(path))
        programs.write(fits, b"")
    return Stored(module, jax.device_put(variables), trained_on, name, metadata)


def template(module: nn.Module, batch: jax.ShapeDtypeStruct) -> Any:
    """The shapes and dtypes of the variables that a module has; `init` starts from the batch."""
    known = (module, repr(module), batch, jax.config.jax_enable_x64)  # 1 == True == 1.0
    try:
        hash(known)
    except TypeError:
        return _template.__wrapped__(*known)
    return jax.tree.map(lambda leaf: leaf, _template(*known))  # its own to change


@functools.lru_cache(maxsize=64)
def _template(module: nn.Module, told: str, batch: jax.ShapeDtypeStruct, x64: bool) -> Any:
    del told, x64  # on which tracing depends, too
    rngs = {"params": jax.random.key(0), "probe": jax.random.key(0)}
    return jax.eval_shape(module.init, rngs, batch)


def _fitting(module: nn.Module, example: Callable, architecture: Architecture) -> Any:
    """The `template` of a module whose architecture is a file's."""
    try:
        return template(module, example(module))
    except InputError:
        raise
    except Exception as error:  # networks of impossible sizes fail in many ways
        raise _no_model(architecture, error) from None
