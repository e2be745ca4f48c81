"""The check of a flow and an encoder that a user brings, before anything is run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow

__all__ = ["check_parts"]


def check_parts(flow: Flow, encoder: Encoder, shape: tuple[int, int, int]) -> None:
    """Refuses functions that do not give what a flow and an encoder give.

    Args:
      flow: the density.
      encoder: the semantic encoder.
      shape: (H, W, C) of the images.

    Raises:
      InputError: saying what was given and what is expected.
    """
    x, images = (jax.ShapeDtypeStruct((2, *shape), dtype) for dtype in (jnp.float32, jnp.uint8))
    _check(
        "the flow",
        "log_prob(variables, key, x float32 [B, H, W, C]) -> float [B]",
        lambda found: found.shape == (2,) and jnp.issubdtype(found.dtype, jnp.floating),
        flow.log_prob,
        (flow.variables, jax.random.key(0), x),
    )
    _check(
        f"the encoder {encoder.name}",
        "embed(variables, images uint8 [B, H, W, C]) -> float [B, d], d at least 2",
        # Scaled to norm 1 all positive numbers are alike, so d = 1 tells no images apart.
        lambda found: len(found.shape) == 2 and found.shape[0] == 2 <= found.shape[1],
        encoder.embed,
        (encoder.variables, images),
    )


def _check(
    what: str,
    expected: str,
    is_fine: Callable[[Any], bool],
    function: Callable[..., Any],
    arguments: tuple,
) -> None:
    try:
        found = jax.eval_shape(function, *arguments)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{what} cannot be called ({reason}); expected {expected}.") from error
    if not isinstance(found, jax.ShapeDtypeStruct):
        raise InputError(f"{what} gives {found!r}; expected {expected}.")
    if not is_fine(found):
        raise InputError(f"{what} gives {found.dtype} {list(found.shape)}; expected {expected}.")
