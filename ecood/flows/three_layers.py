"""The network of Glow's couplings, in the form that each platform runs fastest.

On GPU and TPU that is XLA's own convolution. On CPU each layer is one matrix product W X, where X
has a column for each position of each image, from images that are batch last, [C, H, W, B] (H, W
and B stay dimensions of their own: devices can share B, but not what it is merged into):

- shifts over H and W, biases, masks and conversions then run along contiguous rows;
- all products, those of the derivatives too, contract along X's rows or columns without X being
  transposed, which is the one form that XLA runs on the bfloat16 units of a CPU;
- a 3x3 convolution is the product with the nine shifted inputs if these have the fewer
  channels, else the product into nine outputs, which are shifted and added.

bfloat16 products accumulate, and get their bias and ReLU, in float32. Whatever XLA's CPU compiler
would convert to float32 and back, though it only moves it, is moved as integers: a buffer that
holds all steps of a level would be converted as a whole at each step.
"""

import jax
import jax.numpy as jnp

from ecood.flows.conv import accumulator, conv_xla

__all__ = ["batch_first", "batch_last", "three_layers"]

Kernels = tuple[jax.Array, jax.Array, jax.Array]
Biases = tuple[jax.Array, jax.Array, jax.Array]


def batch_last(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [C, H, W, B]. Where this meets `batch_first`, XLA drops both."""
    return x.transpose(3, 1, 2, 0)


def batch_first(x: jax.Array) -> jax.Array:
    """[C, H, W, B] -> [B, H, W, C]."""
    return x.transpose(3, 1, 2, 0)


@jax.custom_vjp
def three_layers(x: jax.Array, kernels: Kernels, biases: Biases) -> jax.Array:
    """3x3 convolution, ReLU, 1x1 convolution, ReLU, 3x3 convolution; zero padding ("SAME").

    One function with one derivative: backwards it needs the two hidden layers after their ReLU
    and nothing else, where autodiff would also keep what was before it.

    Args:
      x: float [C_in, H, W, B].
      kernels: [3, 3, C_in, width], [1, 1, width, width], [3, 3, width, C_out], of x's dtype.
      biases: [width], [width], [C_out], of x's dtype.

    Returns:
      float [C_out, H, W, B].
    """
    return _forward(x, kernels, biases)[0]


def _forward(x: jax.Array, kernels: Kernels, biases: Biases):
    out, *hidden = jax.lax.platform_dependent(
        x, kernels, biases, cpu=_matmul_forward, default=_xla_forward
    )
    return out, (x, [_as_integers(h) for h in hidden], kernels)


def _backward(residuals, cotangent: jax.Array):
    x, hidden, kernels = residuals
    hidden = [_as_floats(h, x.dtype) for h in hidden]
    return jax.lax.platform_dependent(
        x, *hidden, kernels, cotangent, cpu=_matmul_backward, default=_xla_backward
    )


three_layers.defvjp(_forward, _backward)


def _xla_forward(x: jax.Array, kernels: Kernels, biases: Biases):
    """(out, the two hidden layers), batch last."""
    inner, middle, outer = kernels
    first, second, third = (bias.reshape(1, 1, 1, -1) for bias in biases)
    h1 = jax.nn.relu(conv_xla(batch_first(x), inner) + first)
    h2 = jax.nn.relu(conv_xla(h1, middle) + second)
    return tuple(map(batch_last, (conv_xla(h2, outer) + third, h1, h2)))


def _xla_backward(x, h1, h2, kernels: Kernels, cotangent: jax.Array):
    *inputs, cotangent = map(batch_first, (x, h1, h2, cotangent))
    d_kernels, d_biases = [], []
    for layer in (2, 1, 0):
        if layer < 2:
            cotangent = jnp.where(inputs[layer + 1] > 0, cotangent, 0)
        d_biases.append(jnp.sum(cotangent, axis=(0, 1, 2)))
        cotangent, d_kernel = jax.vjp(conv_xla, inputs[layer], kernels[layer])[1](cotangent)
        d_kernels.append(d_kernel)
    return batch_last(cotangent), tuple(d_kernels[::-1]), tuple(d_biases[::-1])


def _matmul_forward(x: jax.Array, kernels: Kernels, biases: Biases):
    inner, middle, outer = kernels
    first, second, third = (
        bias.astype(accumulator(x.dtype)).reshape(-1, 1, 1, 1) for bias in biases
    )
    h1 = _product(_from_shifts(inner), _shifts(x))
    h1 = jax.nn.relu(h1 + first).astype(x.dtype)
    h2 = _product(_transpose(middle[0, 0]), h1)
    h2 = jax.nn.relu(h2 + second).astype(x.dtype)
    out = _add_shifts(_product(_to_shifts(outer), h2)) + third
    return out.astype(x.dtype), h1, h2


def _matmul_backward(x, h1, h2, kernels: Kernels, cotangent: jax.Array):
    inner, middle, outer = kernels

    d_third = jnp.sum(cotangent.astype(accumulator(x.dtype)), axis=(1, 2, 3))
    shifts = _shifts(cotangent)
    d_outer = _outer(shifts, h2).reshape(3, 3, *outer.shape[:1:-1])
    d_h2 = jnp.where(h2 > 0, _product(_from_shifts(_turned(outer)), shifts), 0)
    d_second, d_h2 = jnp.sum(d_h2, axis=(1, 2, 3)), d_h2.astype(x.dtype)

    d_middle = _outer(h1, d_h2)[None, None]
    d_h1 = jnp.where(h1 > 0, _product(middle[0, 0], d_h2), 0)
    d_first, d_h1 = jnp.sum(d_h1, axis=(1, 2, 3)), d_h1.astype(x.dtype)

    d_inner = _outer(_shifts(x), d_h1).reshape(inner.shape)
    d_x = _add_shifts(_product(_to_shifts(_turned(inner)), d_h1))
    gradients = (d_x, (d_inner, d_middle, _turned(d_outer)), (d_first, d_second, d_third))
    return jax.tree.map(lambda gradient: gradient.astype(x.dtype), gradients)


def _product(matrix: jax.Array, x: jax.Array) -> jax.Array:
    """[C', C], [C, H, W, B] -> [C', H, W, B]."""
    return jax.lax.dot_general(
        matrix, x, (((1,), (0,)), ((), ())), preferred_element_type=accumulator(x.dtype)
    )


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sum over positions and images of a bᵀ: [C_a, H, W, B], [C_b, H, W, B] -> [C_a, C_b]."""
    return jax.lax.dot_general(
        a, b, (((1, 2, 3), (1, 2, 3)), ((), ())), preferred_element_type=accumulator(a.dtype)
    )


def _transpose(matrix: jax.Array) -> jax.Array:
    """In two halves: XLA would make a whole one part of the product, and that another, slow one."""
    return jnp.concatenate([half.T for half in jnp.array_split(matrix, 2)], axis=1)


def _turned(kernel: jax.Array) -> jax.Array:
    """The kernel of the transposed convolution."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _from_shifts(kernel: jax.Array) -> jax.Array:
    """[3, 3, C_in, C_out] -> [C_out, 9 C_in]."""
    return kernel.transpose(3, 0, 1, 2).reshape(kernel.shape[3], -1)


def _to_shifts(kernel: jax.Array) -> jax.Array:
    """[3, 3, C_in, C_out] -> [9 C_out, C_in]."""
    return kernel.transpose(0, 1, 3, 2).reshape(-1, kernel.shape[2])


def _shifts(x: jax.Array) -> jax.Array:
    """[C, H, W, B] -> [9 C, H, W, B]: the neighbours of each position."""
    moved = _as_integers(x)
    return _as_floats(jnp.concatenate([_shift(moved, i, j) for i, j in _TAPS]), x.dtype)


def _add_shifts(x: jax.Array) -> jax.Array:
    """[9 C, H, W, B] -> [C, H, W, B]: each group shifted to its tap's place, and summed."""
    groups = x.reshape(9, -1, *x.shape[1:])
    return sum(_shift(group, i, j) for group, (i, j) in zip(groups, _TAPS, strict=True))


_TAPS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]


def _shift(x: jax.Array, i: int, j: int) -> jax.Array:
    """[C, H, W, B] -> the same shape: what was i rows below and j columns to the right, or zero."""
    padding = ((0, 0, 0), (-i, i, 0), (-j, j, 0), (0, 0, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


def _as_integers(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def _as_floats(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, dtype) if x.dtype == jnp.uint16 else x
