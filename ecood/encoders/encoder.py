"""What ecood needs of a semantic encoder: a pure function, its variables, and its name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax

from ecood import models
from ecood.words import number_of

__all__ = ["Encoder", "encoder", "identity"]


@flax.struct.dataclass
class Encoder:
    """A semantic encoder, one pytree. Anything of this form can be used."""

    # A linen module of uint8 images, or a pure function (variables, images) -> [B, d].
    function: nn.Module | Callable = flax.struct.field(pytree_node=False)
    variables: Any
    name: str = flax.struct.field(pytree_node=False)  # for reports and messages
    # Training images' fingerprints (`ecood.splits.remember`), uint32 [M, 2], if known.
    trained_on: Any = None

    def __repr__(self) -> str:
        size = models.size(self.variables)
        return f"Encoder({', '.join([self.name] + [number_of(size, 'parameter')] * (size > 0))})"

    def embed(self, images: jax.Array) -> jax.Array:
        """uint8 [B, H, W, C] -> float [B, d], of any norm (callers normalise).

        Resizing, scaling and grey to RGB happen inside, so that the whole detection
        path is one compiled program. An embedding depends on its own image only.
        """
        if isinstance(self.function, nn.Module):
            return self.function.apply(self.variables, images)
        return self.function(self.variables, images)


class _OfImages(NamedTuple):
    """A function of images alone, as one of variables and images; equal if the function is."""

    function: Callable[[jax.Array], jax.Array]

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        del variables
        return self.function(images)


def encoder(
    function: Callable[[jax.Array], jax.Array] | nn.Module,
    variables: Any = None,
    *,
    name: str | None = None,
    trained_on: Any = None,
) -> Encoder:
    """Brings your own encoder: a linen module and its variables, or a pure function.

    It takes uint8 images [B, H, W, C] to [B, d]. The default name is the class's or
    function's; functions are told apart by name alone, so say which it is.
    """
    if isinstance(function, nn.Module):
        return Encoder(function, variables, name or type(function).__name__, trained_on)
    models.check_linen(function, or_function=True)
    name = name or getattr(function, "__name__", "function")
    return Encoder(_OfImages(function), {}, name, trained_on)


def identity(encoder: Encoder) -> str:
    """SHA-256 over the encoder's name and variables, by which a bank knows it."""
    return models.identity(encoder)
