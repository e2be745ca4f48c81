"""Convolutions and their derivatives, in the form that each platform runs fastest.

On GPU and TPU that is XLA's own convolution. On CPU it is a matrix product: of the k²
shifted inputs, if these have no more channels than the output, or into k² outputs that
are shifted and added, if the output has fewer. The one is the transpose of the other,
so the derivatives, written by hand, are the same two forms again. All forms are equal
up to rounding.

- `conv` has channels last, [B, H, W, C]: a product X W packs the small W and streams
  the images, which in float32 is a tenth to a fourth faster than W X, and a third for
  one image alone. So it is for the encoder and the Residual Flow, mostly run forward.
- `three_layers` has the batch last, [C, H, W, B]: no product needs X transposed, not
  even a kernel's gradient X Yᵀ, which takes half the time of Xᵀ Y; in bfloat16 it is
  the one form that XLA runs on the units of a CPU. Shifts, biases and masks run along
  rows. So it is for Glow, which is trained.
- `shifted_conv` is the same with taps of one's choice, which no padding of a square
  kernel gives without waste: for PixelCNN, whose positions look up and to the left.

H, W and B stay dimensions of their own wherever they can: devices can share B, but not
what it is merged into unless it comes first.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

__all__ = [
    "Taps",
    "accumulator",
    "as_floats",
    "as_integers",
    "batch_first",
    "batch_last",
    "conv",
    "depthwise_conv",
    "differentiated_once",
    "shifted_conv",
    "three_layers",
]

LAYOUT = ("NHWC", "HWIO", "NHWC")
NARROW = 128  # channels of a hidden layer that takes less time to compute again than to keep

Taps = Sequence[tuple[int, int]]  # where a position looks: (rows down, columns right)
Three = tuple[jax.Array, jax.Array, jax.Array]


def batch_last(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [C, H, W, B]. Where this meets `batch_first`, XLA drops both."""
    return x.transpose(3, 1, 2, 0)


def batch_first(x: jax.Array) -> jax.Array:
    """[C, H, W, B] -> [B, H, W, C]."""
    return x.transpose(3, 1, 2, 0)


@jax.custom_vjp
def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride-1 convolution with zero padding ("SAME"), without bias.

    x: float [B, H, W, C_in]; kernel: [k, k, C_in, C_out], k odd, of x's dtype; the
    result is [B, H, W, C_out].
    """
    return _convolve(x, kernel, 3, _shifts).astype(x.dtype)


def _conv_forward(x: jax.Array, kernel: jax.Array):
    x = differentiated_once(x)
    return _convolve(x, kernel, 3, _shifts).astype(x.dtype), (x, kernel)


def _conv_backward(residuals, cotangent: jax.Array):
    return tuple(d.astype(cotangent.dtype) for d in _derivatives(*residuals, cotangent, 3))


conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def three_layers(x: jax.Array, kernels: Three, biases: Three) -> jax.Array:
    """The network of Glow's couplings: three convolutions, a ReLU between them.

    One function with one derivative, which keeps the input, and the second hidden layer if it is
    wide: the others are cheaper to compute again than to write and read. bfloat16 products
    accumulate, and get their bias and ReLU, in float32. x is float [C_in, H, W, B], kernels are as
    in `conv`, biases [C_out]; the result is [C_out, H, W, B].
    """
    return _network(x, kernels, biases, _shifts)[0]


def _network(x: jax.Array, kernels: Three, biases: Three, shifts: Callable):
    """What comes out, and the second hidden layer."""
    first = _layer(x, kernels[0], biases[0], shifts, jax.nn.relu)
    second = _layer(first, kernels[1], biases[1], shifts, jax.nn.relu)
    return _layer(second, kernels[2], biases[2], shifts), second


def _three_forward(x: jax.Array, kernels: Three, biases: Three):
    x = differentiated_once(x)
    out, second = _network(x, kernels, biases, _each_shift)
    kept = as_integers(second) if len(biases[1]) > NARROW else None
    return out, (as_integers(x), kept, kernels, biases[:2])


def _layer(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    shifts: Callable,
    then: Callable = lambda h: h,
) -> jax.Array:
    h = _convolve(x, kernel, 0, shifts) + bias.astype(accumulator(x)).reshape(-1, 1, 1, 1)
    return then(h).astype(x.dtype)


def _three_backward(residuals, cotangent: jax.Array):
    dtype, d_out, d_layers = cotangent.dtype, cotangent, []
    x, kept, kernels, biases = residuals
    x = as_floats(x, dtype)
    first = _layer(x, kernels[0], biases[0], _each_shift, jax.nn.relu)
    if kept is None:
        second = _layer(first, kernels[1], biases[1], _each_shift, jax.nn.relu)
    else:
        second = as_floats(kept, dtype)
    for given, kernel in zip((second, first, x), reversed(kernels), strict=True):
        d_bias = jnp.sum(d_out, axis=(1, 2, 3), dtype=accumulator(x))
        d_x, d_kernel = _derivatives(given, kernel, d_out.astype(dtype), 0)
        d_layers.insert(0, (d_kernel.astype(dtype), d_bias.astype(dtype)))
        d_out = jnp.where(given > 0, d_x, 0)  # through the ReLU; the first layer has none before it
    return d_x.astype(dtype), *zip(*d_layers, strict=True)


three_layers.defvjp(_three_forward, _three_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def shifted_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, taps: Taps) -> jax.Array:
    """A convolution that sees what lies at the taps, batch last; products on every platform.

    x is float [C_in, H, W, B], zero outside; the kernel is [taps, C_in, C_out] of x's dtype, the
    bias [C_out]; a tap is (rows down, columns right), so that (-1, 0) is the position above. The
    result is [C_out, H, W, B], float32 at least.
    """
    return _sum_of_taps(x, kernel, bias, taps)


def _sum_of_taps(x: jax.Array, kernel: jax.Array, bias: jax.Array, taps: Taps) -> jax.Array:
    return _see(x, kernel, taps, 0, _shifts) + bias.reshape(-1, 1, 1, 1)


def _shifted_forward(x: jax.Array, kernel: jax.Array, bias: jax.Array, taps: Taps):
    x = differentiated_once(x)
    return _sum_of_taps(x, kernel, bias, taps), (as_integers(x), kernel, bias)


def _shifted_backward(taps: Taps, residuals, cotangent: jax.Array):
    x, kernel, bias = residuals
    d_bias = jnp.sum(cotangent, axis=(1, 2, 3)).astype(bias.dtype)
    x, cotangent = as_floats(x, kernel.dtype), cotangent.astype(kernel.dtype)
    d_x, d_kernel = _see_derivatives(x, kernel, cotangent, taps, 0)
    return d_x.astype(x.dtype), d_kernel.astype(kernel.dtype), d_bias


shifted_conv.defvjp(_shifted_forward, _shifted_backward)


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """One filter a channel, unpadded: [B, H, W, C], [k, k, 1, C] -> [B, H', W', C].

    XLA has no fast form for it on CPU; there it is the sum of k² shifted, scaled
    images, which is one fused loop.
    """

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        k = kernel.shape[0]
        h, w = ((side - k) // stride * stride + 1 for side in x.shape[1:3])
        return sum(
            x[:, i : i + h : stride, j : j + w : stride] * kernel[i : i + 1, j : j + 1]
            for i in range(k)
            for j in range(k)
        )

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        options = {"dimension_numbers": LAYOUT, "feature_group_count": x.shape[-1]}
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", **options)

    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


# From here on `axis` is that of the channels: 3, or 0 for batch last. H and W are 1 and 2 in both.


def _convolve(x: jax.Array, kernel: jax.Array, axis: int, shifts: Callable) -> jax.Array:
    """The convolution, in float32 at least."""

    def by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        taps = _taps(kernel.shape[0])
        return _see(x, kernel.reshape(-1, *kernel.shape[2:]), taps, axis, shifts)

    def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _xla(x, kernel, axis).astype(accumulator(x))

    return jax.lax.platform_dependent(x, kernel, cpu=by_product, default=by_xla)


def _derivatives(x: jax.Array, kernel: jax.Array, cotangent: jax.Array, axis: int):
    """(d_x, d_kernel) of `_convolve`, in float32 at least."""

    def by_product(x: jax.Array, kernel: jax.Array, cotangent: jax.Array):
        taps, flat = _taps(kernel.shape[0]), kernel.reshape(-1, *kernel.shape[2:])
        d_x, d_kernel = _see_derivatives(x, flat, cotangent, taps, axis)
        return d_x, d_kernel.reshape(kernel.shape)

    def by_xla(x: jax.Array, kernel: jax.Array, cotangent: jax.Array):
        pull_back = jax.vjp(lambda x, kernel: _xla(x, kernel, axis), x, kernel)[1]
        return tuple(d.astype(accumulator(x)) for d in pull_back(cotangent))

    return jax.lax.platform_dependent(x, kernel, cotangent, cpu=by_product, default=by_xla)


def _see(x: jax.Array, kernel: jax.Array, taps: Taps, axis: int, shifts: Callable) -> jax.Array:
    """What each position sees at the taps, times the kernel [taps, C_in, C_out]."""
    _, c_in, c_out = kernel.shape
    if c_in <= c_out:
        return _product(shifts(x, taps, axis), kernel.reshape(-1, c_out), axis)
    return _add_shifts(_product(x, _to_shifts(kernel), axis), taps, axis)


def _see_derivatives(x: jax.Array, kernel: jax.Array, cotangent: jax.Array, taps: Taps, axis: int):
    """(d_x, d_kernel) of `_see`: the transposed form looks the other way."""
    _, c_in, c_out = kernel.shape
    back = [(-i, -j) for i, j in reversed(taps)]
    turned = kernel[::-1].swapaxes(1, 2)
    if c_in <= c_out:
        d_x = _add_shifts(_product(cotangent, _to_shifts(turned), axis), back, axis)
        return d_x, _outer(_each_shift(x, taps, axis), cotangent, axis).reshape(kernel.shape)
    shifts = _each_shift(cotangent, back, axis)
    d_turned = _outer(shifts, x, axis).reshape(turned.shape)
    return _product(shifts, turned.reshape(-1, c_in), axis), d_turned[::-1].swapaxes(1, 2)


def _xla(x: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
    images = "NHWC" if axis == 3 else "CHWN"
    layout = (images, "HWIO", images)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def _product(x: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
    """C channels -> C' channels, by a matrix [C, C']."""
    left, right = (x, matrix) if axis == 3 else (_transpose(matrix), x)
    contracting = ((left.ndim - 1,), (0,))
    return jax.lax.dot_general(
        left, right, (contracting, ((), ())), preferred_element_type=accumulator(x)
    )


def _outer(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """The sum over positions and images of a bᵀ: [C_a, C_b]."""
    others = (1, 2, 3)
    # Merged, or XLA would copy one transposed. With the batch last, what is merged could not be
    # shared by devices, and in bfloat16 XLA has no such product.
    if axis == 3:
        a, b, others = a.reshape(-1, a.shape[3]), b.reshape(-1, b.shape[3]), (0,)
    elif a.dtype == jnp.float32 and jax.device_count() == 1:
        a, b, others = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1), (1,)
    return jax.lax.dot_general(
        a, b, ((others, others), ((), ())), preferred_element_type=accumulator(a)
    )


def accumulator(x: jax.Array) -> jnp.dtype:
    """Float32 at least: on CPU bfloat16 into bfloat16 takes ten times as long."""
    return x.dtype if x.dtype == jnp.float64 else jnp.dtype(jnp.float32)


def _transpose(matrix: jax.Array) -> jax.Array:
    """In halves: XLA would make a whole one part of the product, a slow one."""
    return jnp.concatenate([half.T for half in jnp.array_split(matrix, 2)], axis=1)


def _to_shifts(kernel: jax.Array) -> jax.Array:
    """[taps, C_in, C_out] -> [C_in, taps * C_out]."""
    return kernel.transpose(1, 0, 2).reshape(kernel.shape[1], -1)


def _shifts(x: jax.Array, taps: Taps, axis: int) -> jax.Array:
    """C channels -> taps * C: what each position sees.

    First along rows, then slices of whole rows: fewer passes over the image than one a tap, and
    less to compile.
    """
    if list(taps) == [(0, 0)]:
        return x
    rows, columns = (sorted({0, *steps}) for steps in zip(*taps, strict=True))
    moved, (height, channels) = as_integers(x), (x.shape[1], x.shape[axis])
    moved = jnp.concatenate([_shift(moved, 0, j) for j in columns], axis)
    around = ((0, 0, 0), (-rows[0], rows[-1], 0), (0, 0, 0), (0, 0, 0))
    moved = jax.lax.pad(moved, jnp.zeros((), moved.dtype), around)
    moved = jax.lax.optimization_barrier(moved)  # what follows is copied, not computed again

    def seen(i: int, j: int) -> jax.Array:
        start = columns.index(j) * channels
        along = jax.lax.slice_in_dim(moved, i - rows[0], i - rows[0] + height, axis=1)
        return jax.lax.slice_in_dim(along, start, start + channels, axis=axis)

    return as_floats(jnp.concatenate([seen(i, j) for i, j in taps], axis), x.dtype)


def _each_shift(x: jax.Array, taps: Taps, axis: int) -> jax.Array:
    """`_shifts`, each by itself, which is faster where a flow is trained."""
    moved = as_integers(x)
    moved = jnp.concatenate([_shift(moved, i, j) for i, j in taps], axis)
    return as_floats(moved, x.dtype)


def _add_shifts(x: jax.Array, taps: Taps, axis: int) -> jax.Array:
    """taps * C channels -> C: each group shifted to its tap's place, and summed."""
    groups = jnp.split(x, len(taps), axis)
    return sum(_shift(group, i, j) for group, (i, j) in zip(groups, taps, strict=True))


def _taps(k: int) -> Taps:
    reach = range(-(k // 2), k // 2 + 1)
    return [(i, j) for i in reach for j in reach]


def _shift(x: jax.Array, i: int, j: int) -> jax.Array:
    """What was i rows below and j columns to the right, or zero."""
    padding = ((0, 0, 0), (-i, i, 0), (-j, j, 0), (0, 0, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


# Whatever XLA's CPU compiler would convert to float32 and back, though it only moves it, is moved
# as integers: a buffer that holds all steps of a level would be converted whole at each step.


def as_integers(x: jax.Array) -> jax.Array:
    """bfloat16 as uint16 of the same bits; others as they are."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def differentiated_once(x: jax.Array) -> jax.Array:
    """x, for the forward rule of a derivative that has none itself in bfloat16.

    What is moved as integers would lose its tangent, and a second derivative be wrong without a
    word; so it is a TypeError.
    """
    return _once(x) if x.dtype == jnp.bfloat16 else x


_once = jax.custom_vjp(lambda x: x)


def _refuse(x: jax.Array):
    raise TypeError(
        "bfloat16 products have no second derivatives here; give the flow, with the same "
        "variables, the dtype 'float32'."
    )


_once.defvjp(_refuse, _refuse)


def as_floats(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The inverse of `as_integers`, of what was `dtype`."""
    return jax.lax.bitcast_convert_type(x, dtype) if x.dtype == jnp.uint16 else x
