"""Encoders on disk: one safetensors file that describes its own architecture."""

import json
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood import weights
from ecood.encoders.compact import Compact
from ecood.encoders.controls import Pixels, RandomFeatures
from ecood.encoders.dinov2 import DINOv2
from ecood.encoders.efficientnet import EfficientNetLite0, efficientnet_lite0
from ecood.encoders.encoder import Encoder, encoder, identity
from ecood.encoders.resnet import ResNet
from ecood.errors import InputError

__all__ = ["build", "load", "save"]

MODULES = {
    module.__name__: module
    for module in (Compact, DINOv2, EfficientNetLite0, Pixels, RandomFeatures, ResNet)
}


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """The module that `Encoder.architecture` describes.

    Raises:
      InputError: for an architecture that this version does not know.
    """
    kind = architecture.get("kind")
    if kind not in MODULES:
        raise InputError(
            f"the encoder is of kind {kind!r}; this version of ecood knows {', '.join(MODULES)}."
        )
    try:
        attributes = {name: _tuples(value) for name, value in architecture["attributes"].items()}
        return MODULES[kind](**attributes)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"the encoder's architecture {dict(architecture)} does not describe a {kind} "
            f"({error}); the file was written by another version or is damaged."
        ) from None


def _tuples(value: Any) -> Any:
    """JSON knows no tuples, linen hashes its attributes."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def save(
    path: str | os.PathLike,
    encoder: Encoder,
    metadata: Mapping[str, str] | None = None,
    *,
    by_reference: bool = False,
) -> None:
    """Writes an encoder as one safetensors file.

    Args:
      path: the file.
      encoder: one whose module is of this package.
      metadata: more strings for the header (data, command, k-NN accuracy).
      by_reference: leave the weights out and keep their identity, for EfficientNet-Lite0, whose
        weights anybody can install with pip.

    Raises:
      InputError: if the encoder is a network that only this program knows, or the file cannot be
        written.
    """
    architecture = encoder.architecture
    if architecture is None:
        raise InputError(
            f"the encoder {encoder.name} is your own function or module, which cannot be saved; "
            "use one of ecood.encoders, or export the scorer instead."
        )
    if by_reference and architecture["kind"] != EfficientNetLite0.__name__:
        raise InputError(
            f"the encoder {encoder.name} cannot be saved by reference; only the weights of "
            f"{EfficientNetLite0.__name__} can be installed: leave by_reference out."
        )
    header = dict(metadata or {}) | {"architecture": json.dumps(architecture)}
    if by_reference:
        weights.save(path, {}, header | {"identity": identity(encoder)})
    else:
        weights.save(path, encoder.variables, header)


def load(path: str | os.PathLike) -> Encoder:
    """Reads an encoder that `save` wrote.

    Raises:
      InputError: if the file is missing or damaged, its weights do not fit its architecture, or
        weights that it refers to are not installed or are others.
    """
    variables, metadata = weights.load(path)
    try:
        architecture = json.loads(metadata["architecture"])
        name = architecture["name"]
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} does not say which encoder it holds; expected a file that "
            "ecood.encoders.save wrote."
        ) from None
    module = build(architecture)
    if "identity" in metadata:
        return _installed(module, metadata["identity"], path)
    images = jax.ShapeDtypeStruct((1, 32, 32, getattr(module, "channels", 3)), jnp.uint8)
    template = jax.eval_shape(module.init, jax.random.key(0), images)
    return encoder(module, weights.match(variables, template, str(path)), name=name)


def _installed(module: nn.Module, expected: str, path: str | os.PathLike) -> Encoder:
    installed = efficientnet_lite0(size=module.size)
    if identity(installed) != expected:
        raise InputError(
            f"{path} refers to an {installed.name} with other weights than those installed; "
            "install the version of ecood and of the weights that it was saved with."
        )
    return installed
