"""Flows on disk: those that `save` wrote, and those that come with the package."""

import os
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood import models
from ecood.errors import InputError
from ecood.flows.flow import MODULES, Flow, bind
from ecood.models import PRETRAINED

__all__ = ["load", "save", "shipped"]


def save(path: str | os.PathLike, flow: Flow, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a flow as one safetensors file that describes its own architecture.

    Metadata are more strings for the header (data, command, bits/dim).

    Raises:
      InputError: if the flow is not of one of the modules in `MODULES`, or the file cannot be
        written.
    """
    if flow.architecture is None:
        raise InputError(
            "this flow is a plain function, or a module of your own, which no file can hold; fit "
            "with made_by='my_package.model:make' to save where it is made, or export the scorer, "
            "unless it calls back into Python."
        )
    models.write(
        path, flow.architecture, flow.variables, trained_on=flow.trained_on, metadata=metadata
    )


def shipped() -> list[str]:
    """The names of the flows that come with the package, a card beside each."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/flow.safetensors"))


def load(path: str | os.PathLike) -> Flow:
    """Reads a flow that `save` wrote, or one of the names of `shipped()`.

    Raises:
      InputError: if the file is missing or damaged, or its weights do not fit its architecture.
    """
    if str(path) in shipped() and not os.path.isfile(path):
        path = PRETRAINED / str(path) / "flow.safetensors"

    def example(module: nn.Module) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *module.image_shape), jnp.float32)

    stored = models.read(path, MODULES.values(), example)
    return bind(stored.module, stored.variables, stored.trained_on)
