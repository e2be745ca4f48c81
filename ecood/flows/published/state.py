"""A published state dict, taken apart name by name, and what flows of ours need of its arrays."""

import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood import models, weights
from ecood.errors import InputError
from ecood.flows import Flow, bind
from ecood.torch_file import Tensor

__all__ = ["State", "bound", "kernel", "mix", "only_shifting", "squeezed", "stacked"]

OPEN = 40.0  # sigmoid(OPEN + 2) is 1 in float32


class State:
    """Tensors by their published names. What is taken must be there; what is left over is named."""

    def __init__(self, tensors: Any, path: str | os.PathLike, kind: str):
        """Of `tensors`, a dict of `Tensor`s or arrays, from `path`; `kind` is what they should be.

        Raises:
          InputError: if they are no such dict.
        """
        self.kind, self.path, self.left = kind, path, {}
        if not isinstance(tensors, Mapping):
            raise self.wrong(f"it holds a {type(tensors).__name__}, no dict of tensors")
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor | np.ndarray):
                raise self.wrong(f"{name} is a {type(tensor).__name__}, no tensor")
            self.left[name] = tensor

    def wrong(self, problem: str) -> InputError:
        """What to raise where the file is not what it should be."""
        return InputError(
            f"{self.path} is not {self.kind}: {problem}; give the published file of that model."
        )

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that is not yet taken."""
        if name not in self.left:
            raise self.wrong(f"{name} is missing")
        return tuple(self.left[name].shape)

    def take(self, name: str, *shape: int) -> np.ndarray:
        """The tensor of that name and shape, in float64, which can be taken once."""
        found = self.shape(name)
        if found != shape:
            raise self.wrong(f"{name} has shape {list(found)}, expected {list(shape)}")
        tensor = self.left.pop(name)
        array = tensor.array() if isinstance(tensor, Tensor) else tensor
        if not (jnp.issubdtype(array.dtype, jnp.floating) and np.isfinite(array).all()):
            raise self.wrong(f"{name} holds {array.dtype}, expected finite floats")
        return array.astype(np.float64)

    def end(self) -> None:
        """Refuses what was not taken."""
        if self.left:
            raise self.wrong(f"{next(iter(self.left))} is not part of it")


def bound(module: nn.Module, variables: Mapping[str, Any]) -> Flow:
    """The flow of `module` with `variables`, which become float32."""
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(variables))
    x = jax.ShapeDtypeStruct((1, *module.image_shape), jnp.float32)
    template = models.template(module, x)
    return bind(module, weights.match(variables, template, f"the {type(module).__name__}"))


def stacked(steps: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The variables of a level's steps, one after the other in each leaf, float32."""
    return jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *steps)


def kernel(array: np.ndarray) -> np.ndarray:
    """PyTorch's [out, in, k, k] as [k, k, in, out]."""
    return array.transpose(2, 3, 1, 0)


def squeezed(order: np.ndarray) -> np.ndarray:
    """The published numbers [4C] of the channels that `Squeeze` makes of those of `order` [C].

    PyTorch's codes keep the four pixels of a channel together, [C, 2, 2]; ours keeps the channels
    of a pixel together, [2, 2, C].
    """
    return (4 * order[None] + np.arange(4)[:, None]).ravel()


def mix(matrix: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """(params, fixed) of the `InvertibleConv` that applies `matrix` [C, C] to a pixel's channels.

    The QR decomposition of its transpose has the rotation and, with positive diagonal, the upper
    triangle; the lower one is the identity.
    """
    rotation, upper = np.linalg.qr(matrix.T)
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    rotation, upper = rotation * signs, upper * signs[:, None]
    with np.errstate(divide="ignore"):
        log_scale = np.log(np.diag(upper))
    return (
        {"lower": np.zeros_like(upper), "upper": np.triu(upper, 1), "log_scale": log_scale},
        {"rotation": rotation},
    )


def only_shifting(outer: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The last layer of an `AffineCoupling` whose shift comes from `outer`; its scale is 1."""
    filled = {"kernel": 0.0, "bias": OPEN, "log_gain": 0.0}
    return {k: np.concatenate([x, np.full_like(x, filled[k])], axis=-1) for k, x in outer.items()}
