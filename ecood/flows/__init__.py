"""Density models as pure linen modules, and what the rest of ecood needs of a density.

Every layer and every flow has `forward_and_log_det(x) -> (z, log_det [B])` and
`inverse_and_log_det(z) -> (x, log_det [B])`, as in distrax; forward is data to latent, as in
Glow. A flow also has `log_prob(x) -> [B]` and `sample(key, n)`; its latent is standard normal,
so that `log_prob` is the normal's at z plus the log-determinant. To add a flow, write such a
module in a file of its own and add a line to the property test's table.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood import weights
from ecood.errors import InputError
from ecood.flows.glow import Glow
from ecood.flows.residual import ResidualFlow

__all__ = ["Flow", "Glow", "ResidualFlow", "bind", "bits_per_dim", "load", "save", "shipped"]

PRETRAINED = pathlib.Path(__file__).parents[1] / "pretrained"
MODULES = {module.__name__: module for module in (Glow, ResidualFlow)}


class Flow(NamedTuple):
    """A density model: pure functions and their variables. Anything of this form can be scored.

    Attributes:
      log_prob: `(variables, key, x) -> [B]` in nats, of x float32 [B, H, W, C], pixels
        dequantised to [0, 1) (`ecood.images.dequantise`) and possibly perturbed beyond. `key`
        serves flows that estimate their log-determinant; others ignore it.
      variables: the pytree that `log_prob` takes.
      forward_and_log_det: `(variables, key, x) -> (z [B, D], log_det [B])`, z standard normal
        under the flow; or None for a density that has no latent. Only detectors that look at
        the latent need it.
      architecture: what `build` needs to make the module again, or None if it cannot; a scorer
        is saved with it.
    """

    log_prob: Callable[[Any, jax.Array, jax.Array], jax.Array]
    variables: Any
    forward_and_log_det: Callable[[Any, jax.Array, jax.Array], tuple] | None = None
    architecture: Mapping[str, Any] | None = None


def bind(module: nn.Module, variables: Any) -> Flow:
    """A linen flow and its trained variables as a `Flow`."""

    def log_prob(variables: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return module.apply(variables, x, method="log_prob", rngs={"probe": key})

    def forward_and_log_det(variables: Any, key: jax.Array, x: jax.Array):
        return module.apply(variables, x, method="forward_and_log_det", rngs={"probe": key})

    return Flow(log_prob, variables, forward_and_log_det, describe(module))


def describe(module: nn.Module) -> dict[str, Any] | None:
    """The module's class and attributes as JSON values, or None if it is not one of ours."""
    kind = type(module).__name__
    if MODULES.get(kind) is not type(module):
        return None
    names = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    values = {name: getattr(module, name) for name in names}
    if "dtype" in values:
        values["dtype"] = jnp.dtype(values["dtype"]).name
    return {"kind": kind} | values


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """The module that `describe` described.

    Raises:
      InputError: for an architecture that this version does not know.
    """
    values = dict(architecture) if isinstance(architecture, Mapping) else {}
    kind = values.pop("kind", None)
    if kind not in MODULES:
        raise InputError(
            f"the flow is of kind {kind!r}; this version of ecood knows {', '.join(MODULES)}."
        )
    try:
        if "dtype" in values:
            values["dtype"] = jnp.dtype(values["dtype"]).type
        return MODULES[kind](**values | {"image_shape": tuple(values["image_shape"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the flow's architecture {dict(architecture)} does not describe a {kind} ({error}); "
            "the file was written by another version or is damaged."
        ) from None


def save(path: str | os.PathLike, flow: Flow, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a flow as one safetensors file that describes its own architecture.

    Args:
      path: the file.
      flow: what `bind` returned for a flow of this package.
      metadata: more strings for the header (data, command, bits/dim).

    Raises:
      InputError: if the flow is a function that only this program knows, or the file cannot be
        written.
    """
    if flow.architecture is None:
        raise InputError(
            "this flow is a plain function, which cannot be saved; bind a linen module of "
            "ecood.flows, or export the scorer instead."
        )
    architecture = {"architecture": json.dumps(flow.architecture)}
    weights.save(path, flow.variables, dict(metadata or {}) | architecture)


def shipped() -> list[str]:
    """The names of the flows that come with the package, a card beside each."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/flow.safetensors"))


def load(path: str | os.PathLike) -> Flow:
    """Reads a flow that `save` wrote, or one that is shipped.

    Args:
      path: the file, or one of the names of `shipped()`.

    Raises:
      InputError: if the file is missing or damaged, or its weights do not fit its architecture.
    """
    if str(path) in shipped() and not os.path.exists(path):
        path = PRETRAINED / str(path) / "flow.safetensors"
    variables, metadata = weights.load(path)
    try:
        architecture = json.loads(metadata["architecture"])
    except (KeyError, ValueError):
        raise InputError(
            f"{path} does not say which flow it holds; expected a file that ecood.flows.save wrote."
        ) from None
    module = build(architecture)
    x = jax.ShapeDtypeStruct((1, *module.image_shape), jnp.float32)
    rngs = {"params": jax.random.key(0), "probe": jax.random.key(0)}
    return bind(module, weights.match(variables, jax.eval_shape(module.init, rngs, x), str(path)))


def bits_per_dim(log_prob: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Nats of a dequantised 8-bit image in [0, 1) to bits per dimension of the 8-bit image.

    Args:
      log_prob: log-densities in nats, any shape.
      shape: the image's shape (H, W, C), D = H * W * C.

    Returns:
      8 - log_prob / (D ln 2), the shape of `log_prob`.

    Source: Theis et al. 2016, "A note on the evaluation of generative models", section 3.1.
    """
    return 8.0 - log_prob / (math.prod(shape) * math.log(2.0))
