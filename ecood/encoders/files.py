"""Encoders on disk: one safetensors file that describes its own architecture."""

import os
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood import models
from ecood.encoders.compact import Compact
from ecood.encoders.controls import Pixels, RandomFeatures
from ecood.encoders.dinov2 import DINOv2
from ecood.encoders.efficientnet import EfficientNetLite0, efficientnet_lite0
from ecood.encoders.elsewhere import Elsewhere
from ecood.encoders.encoder import Encoder, encoder, identity
from ecood.encoders.resnet import ResNet
from ecood.errors import InputError

__all__ = ["MODULES", "load", "save"]

MODULES = {
    module.__name__: module
    for module in (Compact, DINOv2, EfficientNetLite0, Elsewhere, Pixels, RandomFeatures, ResNet)
}


def save(
    path: str | os.PathLike,
    encoder: Encoder,
    metadata: Mapping[str, str] | None = None,
    *,
    by_reference: bool = False,
) -> None:
    """Writes an encoder, one of the modules in `MODULES`, as one safetensors file.

    `metadata` are more strings for the header (data, command, k-NN accuracy).
    `by_reference` keeps only the identity of the weights, for EfficientNet-Lite0, whose
    weights pip can install. Raises `InputError` for a function or module that only this
    program knows, or if the file cannot be written.
    """
    architecture = models.describe(encoder.function, MODULES.values())
    if architecture is None:
        raise InputError(
            f"the encoder {encoder.name} is your own function or module, which no file can hold; "
            "fit with made_by='my_package.model:make' to save where it is made, or export the "
            "scorer, unless it calls back into Python, as PyTorch's modules do."
        )
    variables, header = encoder.variables, dict(metadata or {})
    if by_reference:
        if architecture["kind"] != EfficientNetLite0.__name__:
            raise InputError(
                f"the encoder {encoder.name} cannot be saved by reference; only the weights of "
                f"{EfficientNetLite0.__name__} can be installed: leave by_reference out."
            )
        variables, header["identity"] = {}, identity(encoder)
    architecture["name"] = encoder.name
    models.write(path, architecture, variables, trained_on=encoder.trained_on, metadata=header)


def load(path: str | os.PathLike) -> Encoder:
    """Reads an encoder that `save` wrote.

    Raises `InputError` for a damaged file, or weights that are not those installed.
    """

    def example(module: nn.Module) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, 32, 32, getattr(module, "channels", 3)), jnp.uint8)

    module, variables, trained_on, name, metadata = models.read(path, MODULES.values(), example)
    if variables is not None:
        return encoder(module, variables, name=name, trained_on=trained_on)
    installed = efficientnet_lite0(size=module.size)
    if identity(installed) != metadata["identity"]:
        raise InputError(
            f"{path} refers to an {installed.name} with other weights than those installed; "
            "install the version of ecood and of the weights that it was saved with."
        )
    return installed
