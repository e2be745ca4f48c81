"""A product with a matrix, and its derivatives, in the forms that a CPU runs fastest.

Of a transformer all rows X [N, K], positions and images alike, meet a kernel W [K, M]. XLA's own
gradient of W contracts over images and positions as two axes, and takes five to seven times as
long as the rest. Merged, and with X transposed beforehand, Xᵀ Y is a product like X W. bfloat16
products give float32, the one form that XLA runs on the units that a CPU has for them, and not
where it sees that an operand is transposed: `_transposed` hides it. What is only moved is moved as
integers, as in `ecood.convolution`. On other platforms nothing changes.
"""

import jax
import jax.numpy as jnp

from ecood.convolution import accumulator, as_floats, as_integers, differentiated_once

__all__ = ["dense"]


@jax.custom_vjp
def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., K] and a kernel [K, M] of its dtype, bias [M] -> [..., M], float32 at least."""
    return _affine(x, kernel, bias)


def _affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    product = _product(x.reshape(-1, x.shape[-1]), kernel, 0) + bias.reshape(1, -1)
    return product.reshape(*x.shape[:-1], kernel.shape[1])


def _forward(x: jax.Array, kernel: jax.Array, bias: jax.Array):
    x = differentiated_once(x)
    return _affine(x, kernel, bias), (as_integers(x), kernel, bias)


def _backward(residuals, cotangent: jax.Array):
    x, kernel, bias = residuals
    dtype, shape = kernel.dtype, x.shape
    x, y = x.reshape(-1, shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    d_bias = _product(jnp.ones((1, len(y)), y.dtype), y, 0).reshape(-1)  # a sum, but faster
    y = y.astype(dtype)
    d_x, d_kernel = _product(y, kernel, 1), _product(_transposed(x, kernel), y, 0)
    return d_x.reshape(shape).astype(dtype), d_kernel.astype(dtype), d_bias.astype(bias.dtype)


dense.defvjp(_forward, _backward)


def _transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [N, K] transposed, as floats of the kernel's dtype.

    On CPUs, in bfloat16, it is one branch of a condition that always holds. XLA cannot know that it
    does, so it sees no transposed operand, for which it would compute the product in float32, which
    takes three times as long.
    """
    x = as_floats(x, kernel.dtype)
    if kernel.dtype != jnp.bfloat16:
        return x.T

    def hidden(x: jax.Array, kernel: jax.Array) -> jax.Array:
        sign = as_integers(kernel[0, 0]) >> 15
        return jax.lax.cond(sign < 2, lambda x: x.T, lambda x: jnp.zeros_like(x.T), x)

    return jax.lax.platform_dependent(x, kernel, cpu=hidden, default=lambda x, _: x.T)


def _product(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """The last axis of a [N, K] with the `axis` of b."""
    contracting = (1,), (axis,)
    return jax.lax.dot_general(a, b, (contracting, ((), ())), preferred_element_type=accumulator(a))
