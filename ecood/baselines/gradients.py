"""Gradients of one image's log-likelihood in the parameters, and safe log norms."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ecood.errors import InputError
from ecood.flows import Flow
from ecood.statistics import dequantised

__all__ = ["log_norm", "map_gradients", "parameters"]

FLOOR = -50.0  # of log norms: a gradient that is zero, as of a ReLU that is off


def parameters(flow: Flow) -> tuple[Any, Callable[[Any], Flow]]:
    """The part of a flow's variables that was trained, and the flow with another in its place.

    That is the collection "params" of a linen module, and all of anything else; an `InputError` if
    it is empty.
    """
    variables = flow.variables
    of_linen = isinstance(variables, dict) and "params" in variables
    if not jax.tree.leaves(variables["params"] if of_linen else variables):
        raise InputError(
            "this flow has no parameters, and the detector looks at the gradient in them; choose "
            "another detector, or give the flow its parameters as `variables`."
        )
    if of_linen:
        return variables["params"], lambda params: flow.replace(
            variables={**variables, "params": params}
        )
    return variables, lambda params: flow.replace(variables=params)


def map_gradients(
    flow: Flow, key: jax.Array, images: jax.Array, statistic: Callable[[jax.Array, Any], Any]
) -> Any:
    """A statistic of log p(x) in nats and of its gradient in the parameters, for each image.

    One image at a time, so that one gradient is held, whatever the batch. `statistic`
    is `(log_prob [], gradient) -> pytree`, the gradient of the structure of
    `parameters`; its results are stacked, [B, ...] each.
    """
    params, put = parameters(flow)

    def one(x: jax.Array) -> Any:
        def log_prob(params: Any) -> jax.Array:
            return put(params).log_prob(key, x[None])[0]

        return statistic(*jax.value_and_grad(log_prob)(params))

    return jax.lax.map(one, dequantised(key, images))


def log_norm(gradient: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """log of the Euclidean norm over some axes, safe from overflow; zero counts as e^-50."""
    magnitude = jnp.abs(gradient)
    largest = jnp.maximum(jnp.max(magnitude, axis=axes, keepdims=True), jnp.finfo(jnp.float32).tiny)
    squares = jnp.sum((magnitude / largest) ** 2, axis=axes)
    logarithm = jnp.log(largest).reshape(squares.shape) + 0.5 * jnp.log(squares)
    return jnp.maximum(logarithm, FLOOR)
