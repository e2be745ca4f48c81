"""The checks of a flow and an encoder that a user brings: what they take, and what they give."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError

from ecood import statistics
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.words import number_of

if TYPE_CHECKING:
    from ecood.score import Along

__all__ = ["check_alone", "check_encoder", "check_kinds", "check_measured", "check_parts"]

LOG_PROB = "log_prob(variables, key, x float32 [B, H, W, C]) -> float32 [B]"
EMBED = "embed(variables, images uint8 [B, H, W, C]) -> float [B, d], d at least 2"


def check_kinds(flow: Any, encoder: Any) -> None:
    """Refuses what is no flow, or no encoder."""
    for given, what, kind, make in (
        (flow, "flow", Flow, "flows.Flow(log_prob, variables) or flows.bind(module, variables)"),
        (encoder, "encoder", Encoder, "encoders.encoder(function)"),
    ):
        if not isinstance(given, kind):
            raise InputError(
                f"the {what} is of the type {type(given).__name__}; expected {kind.__name__}: "
                f"{make} makes one."
            )


def check_parts(flow: Flow, encoder: Encoder, shape: tuple[int, int, int]) -> None:
    """Refuses what does not give what a flow and an encoder do for images (H, W, C)."""
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    found = _trace("the flow", LOG_PROB, flow.log_prob, jax.random.key(0), x)
    if found.shape != (2,) or found.dtype not in (jnp.float32, jnp.float64):
        raise _refusal("the flow", LOG_PROB, found)
    check_encoder(encoder, shape)


def check_encoder(encoder: Encoder, shape: tuple[int, int, int]) -> None:
    """Refuses what does not give what an encoder does for images (H, W, C)."""
    images = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)
    found = _trace(f"the encoder {encoder.name}", EMBED, encoder.embed, images)
    # Scaled to norm 1 all positive numbers are alike, so d = 1 tells no images apart.
    if len(found.shape) != 2 or found.shape[0] != 2 or found.shape[1] < 2:
        raise _refusal(f"the encoder {encoder.name}", EMBED, found)


def _trace(what: str, expected: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        found = jax.eval_shape(function, *arguments)
    except (TypeError, ValueError, FlaxError) as error:  # others are faults of the user's code
        reason = str(error).splitlines()[0].removesuffix(".")
        raise InputError(f"{what} cannot be called ({reason}); expected {expected}.") from error
    if not isinstance(found, jax.ShapeDtypeStruct):
        raise InputError(f"{what} gives {found!r}; expected {expected}.")
    return found


def _refusal(what: str, expected: str, found: jax.ShapeDtypeStruct) -> InputError:
    return InputError(f"{what} gives {found.dtype} {list(found.shape)}; expected {expected}.")


def check_measured(at: "Along", encoder: str) -> None:
    """Refuses a flow or encoder that fails on ID images, before its scores look plausible.

    With noise, at the weakest of the strengths: it is for `choose_strength` to pass over others.
    """
    given = number_of(len(at.bits), "held-out in-distribution image")
    if count := int((~np.isfinite(at.similarity)).sum()):
        raise InputError(
            f"the encoder {encoder} gave embeddings that are NaN or infinite for {count} of "
            f"{given}; check its weights and its preprocessing."
        )
    if count := int(statistics.broken(at.bits).sum()):
        raise InputError(
            f"the flow's log-density is NaN or infinite for {count} of {given}; check its "
            "weights, and that it takes pixels dequantised to [0, 1)."
        )
    if count := int(statistics.broken(at.perturbed[0]).sum()):
        raise InputError(
            f"the flow's log-density is NaN or infinite for {count} of {given} with noise of "
            f"strength {at.strengths[0]:.3g}; check its weights, or give a smaller noise_strength."
        )


def check_alone(at: "Along", alone: "Along", encoder: str) -> None:
    """Refuses a flow or encoder to which the first image is another one `alone` than among others.

    As a batch normalisation is that takes the batch's own mean: a score would depend on what else
    is scored.
    """
    for what, told, among, by_itself in (
        ("the flow", "bits/dim", at.bits[0], alone.bits[0]),
        (f"the encoder {encoder}", "similarity", at.similarity[0], alone.similarity[0]),
    ):
        if not np.isclose(among, by_itself, rtol=1e-3, atol=1e-3):
            raise InputError(
                f"{what} gives an image {told} {among:.4g} among others and {by_itself:.4g} alone; "
                "expected a function of each image by itself: what it takes from its batch must be "
                "fixed after training."
            )
