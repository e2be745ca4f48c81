"""The check of a flow and an encoder that a user brings, before anything is run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow

__all__ = ["check_parts"]

LOG_PROB = "log_prob(variables, key, x float32 [B, H, W, C]) -> float [B]"
EMBED = "embed(variables, images uint8 [B, H, W, C]) -> float [B, d], d at least 2"


def check_parts(flow: Flow, encoder: Encoder, shape: tuple[int, int, int]) -> None:
    """Refuses what does not give what a flow and an encoder do for images (H, W, C)."""
    x, images = (jax.ShapeDtypeStruct((2, *shape), dtype) for dtype in (jnp.float32, jnp.uint8))
    found = _trace("the flow", LOG_PROB, flow.log_prob, jax.random.key(0), x)
    if found.shape != (2,) or not jnp.issubdtype(found.dtype, jnp.floating):
        raise _refusal("the flow", LOG_PROB, found)
    found = _trace(f"the encoder {encoder.name}", EMBED, encoder.embed, images)
    # Scaled to norm 1 all positive numbers are alike, so d = 1 tells no images apart.
    if len(found.shape) != 2 or found.shape[0] != 2 or found.shape[1] < 2:
        raise _refusal(f"the encoder {encoder.name}", EMBED, found)


def _trace(what: str, expected: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        found = jax.eval_shape(function, *arguments)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{what} cannot be called ({reason}); expected {expected}.") from error
    if not isinstance(found, jax.ShapeDtypeStruct):
        raise InputError(f"{what} gives {found!r}; expected {expected}.")
    return found


def _refusal(what: str, expected: str, found: jax.ShapeDtypeStruct) -> InputError:
    return InputError(f"{what} gives {found.dtype} {list(found.shape)}; expected {expected}.")
