"""What ecood needs of a semantic encoder: a pure function, its variables, and who it is."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

__all__ = ["Encoder", "encoder", "identity"]


class Encoder(NamedTuple):
    """A semantic encoder: anything of this form can be used.

    Attributes:
      embed: `(variables, images uint8 [B, H, W, C]) -> float [B, d]`, of any norm (callers
        normalise). Resizing, scaling and grey to RGB happen inside, so that the whole detection
        path is one compiled program. An embedding depends on its own image only.
      variables: the pytree that `embed` takes.
      name: what to call it in reports and messages.
      architecture: what `ecood.encoders.build` needs to make it again, or None if it cannot; a
        scorer is saved with it.
    """

    embed: Callable[[Any, jax.Array], jax.Array]
    variables: Any
    name: str
    architecture: Mapping[str, Any] | None = None


def encoder(
    function: Callable[[jax.Array], jax.Array] | nn.Module,
    variables: Any = None,
    *,
    name: str | None = None,
) -> Encoder:
    """Brings your own encoder.

    Args:
      function: a pure function `images -> [B, d]`, or a linen module with its `variables`;
        images are uint8 [B, H, W, C].
      variables: the module's variables; None for a function.
      name: what to call it; the function's or class's name if None. Functions are told apart by
        their names alone, so give yours one that says which it is; lambdas all have the same.
    """
    if isinstance(function, nn.Module):
        name = name or type(function).__name__
        return Encoder(function.apply, variables, name, _architecture(function, name))

    def embed(variables: Any, images: jax.Array) -> jax.Array:
        del variables
        return function(images)

    return Encoder(embed, {}, name or getattr(function, "__name__", "function"))


def _architecture(module: nn.Module, name: str) -> dict[str, Any] | None:
    """The class and attributes of one of ecood's own modules; None for any other."""
    if not type(module).__module__.startswith("ecood.encoders."):
        return None
    names = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    attributes = {name: getattr(module, name) for name in names}
    return {"kind": type(module).__name__, "name": name, "attributes": attributes}


def identity(encoder: Encoder) -> str:
    """SHA-256 over the encoder's name and variables: names, shapes, dtypes and bytes.

    A memory bank carries it, so that the bank of another encoder is refused; of functions, which
    have no variables, it knows the name alone.
    """
    digest = hashlib.sha256(encoder.name.encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.variables):
        array = np.asarray(leaf)
        header = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        digest.update(header.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
