"""3x3 and 1x1 convolutions, in the form that each platform runs fastest.

On GPU and TPU that is XLA's own convolution. On CPU it is a matrix product: of the nine shifted
images, if the input has the fewer channels, or into nine images that are shifted and added, if
the output has. The one is the transpose of the other, so the derivatives, written by hand, are
the same two forms again. All forms are equal up to rounding.
"""

import jax
import jax.numpy as jnp

__all__ = ["accumulator", "conv", "conv_xla"]


@jax.custom_vjp
def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride-1 convolution with zero padding ("SAME"), without bias.

    Args:
      x: float [B, H, W, C_in].
      kernel: float [k, k, C_in, C_out], k odd.

    Returns:
      float [B, H, W, C_out].
    """
    if kernel.shape[0] == kernel.shape[1] == 1:
        return _pointwise(x, kernel[0, 0])
    return jax.lax.platform_dependent(x, kernel, cpu=_conv_matmul, default=conv_xla)


def _forward(x: jax.Array, kernel: jax.Array):
    return conv(x, kernel), (x, kernel)


def _backward(residuals, cotangent: jax.Array):
    x, kernel = residuals
    if kernel.shape[0] == kernel.shape[1] == 1:
        dx = _pointwise(cotangent, kernel[0, 0].T)
        dkernel = _outer(x, cotangent)[None, None]
        return dx, dkernel
    return jax.lax.platform_dependent(
        x, kernel, cotangent, cpu=_transpose_matmul, default=_transpose_xla
    )


conv.defvjp(_forward, _backward)


def conv_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same, as XLA's own convolution."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _transpose_xla(x: jax.Array, kernel: jax.Array, cotangent: jax.Array):
    return jax.vjp(conv_xla, x, kernel)[1](cotangent)


def _conv_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    k, _, c_in, c_out = kernel.shape
    if c_in <= c_out:
        return _pointwise(_shifts(x, k), kernel.reshape(k * k * c_in, c_out))
    spread = kernel.transpose(2, 0, 1, 3).reshape(c_in, k * k * c_out)
    return _add_shifts(_pointwise(x, spread), k)


def _transpose_matmul(x: jax.Array, kernel: jax.Array, cotangent: jax.Array):
    k, _, c_in, c_out = kernel.shape
    if c_in <= c_out:
        dx = _conv_matmul(cotangent, kernel[::-1, ::-1].swapaxes(2, 3))
        dkernel = _outer(_shifts(x, k), cotangent).reshape(k, k, c_in, c_out)
        return dx, dkernel
    shifts = _shifts(cotangent, k)
    back = kernel[::-1, ::-1].transpose(0, 1, 3, 2).reshape(k * k * c_out, c_in)
    dkernel = _outer(x, shifts).reshape(c_in, k, k, c_out)[:, ::-1, ::-1]
    return _pointwise(shifts, back), dkernel.transpose(1, 2, 0, 3)


def _pointwise(x: jax.Array, matrix: jax.Array) -> jax.Array:
    product = jnp.matmul(
        x.reshape(-1, x.shape[-1]), matrix, preferred_element_type=accumulator(x.dtype)
    )
    return product.astype(x.dtype).reshape(*x.shape[:-1], matrix.shape[-1])


def _outer(x: jax.Array, y: jax.Array) -> jax.Array:
    """The sum over batch and positions of x yᵀ: [C_x, C_y]."""
    product = jax.lax.dot_general(
        x.reshape(-1, x.shape[-1]),
        y.reshape(-1, y.shape[-1]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=accumulator(x.dtype),
    )
    return product.astype(x.dtype)


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """Float32 at least: on CPU a bfloat16 product into bfloat16 is also ten times slower."""
    return jnp.promote_types(dtype, jnp.float32)


def _shifts(x: jax.Array, k: int) -> jax.Array:
    """[B, H, W, C] -> [B, H, W, k * k * C]: each position's k x k neighbourhood."""
    _, h, w, _ = x.shape
    r = k // 2
    padded = jnp.pad(x, ((0, 0), (r, r), (r, r), (0, 0)))
    return jnp.concatenate(
        [padded[:, i : i + h, j : j + w] for i in range(k) for j in range(k)], axis=-1
    )


def _add_shifts(x: jax.Array, k: int) -> jax.Array:
    """[B, H, W, k * k * C] -> [B, H, W, C]: each group shifted to its tap's place, and summed."""
    _, h, w, _ = x.shape
    r = k // 2
    padded = jnp.pad(x, ((0, 0), (r, r), (r, r), (0, 0)))
    groups = jnp.split(padded, k * k, axis=-1)
    taps = [(i, j) for i in range(k) for j in range(k)]
    return sum(group[:, i : i + h, j : j + w] for group, (i, j) in zip(groups, taps, strict=True))
