"""Networks with a Lipschitz constant below one: spectral normalisation and LipSwish.

A `LipschitzNet` does not compute g(x) itself. It returns its normalised layers, and the pure
functions `evaluate`, `jvp` and `vjp` use them. So the norms are estimated once for each pass,
however many products with the Jacobian follow, and those are chains of convolutions and
multiplications with known slopes: nothing is linearised twice.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.convolution import conv

__all__ = [
    "COEFFICIENT",
    "Layer",
    "LipschitzNet",
    "SpectralConv",
    "evaluate",
    "jvp",
    "lip_swish",
    "power_iteration",
    "vjp",
]

COEFFICIENT = 0.98  # of each convolution, as in the paper
TOLERANCE = 1e-5  # relative change of the norm at which the power iteration rests
VECTORS = 4  # iterated together
TRAIN_ITERATIONS = 5  # an optimiser step moves the norm little
ITERATIONS = 500  # at initialisation, and after training, where averaged weights may be new


class Layer(NamedTuple):
    """LipSwish of slope parameter beta > 0, then a convolution of norm `COEFFICIENT`, or less."""

    beta: jax.Array  # []
    kernel: jax.Array  # [k, k, C_in, C_out]
    bias: jax.Array  # [C_out]


class SpectralConv(nn.Module):
    """The kernel and bias of a convolution, the kernel scaled to norm `COEFFICIENT` or less.

    That is up to the error of the power iteration, which rests where a step changes the norm by no
    more than `TOLERANCE`: norms of 0.9801 were met. The norm is that of the convolution as a linear
    operator on images of the given size, zero padding included, not that of the kernel as a matrix.
    The vectors that the power iteration has reached are kept in the collection "lipschitz";
    training continues from them and stores the better ones, evaluation continues from them and
    stores nothing. So evaluation has the same norm each time, and it is that of the weights given,
    also when these are an average that the stored vectors were not computed for.

    Source: Gouk et al. 2018, "Regularisation of neural networks by enforcing Lipschitz
    continuity", section 4; Chen et al. 2019, appendix E.
    """

    features: int
    size: int = 3  # odd
    settled: bool = False  # the kernel is taken as it is: its norm is right already

    @nn.compact
    def __call__(self, shape: tuple[int, int, int], train: bool = False):
        """Input shape (H, W, C_in) -> (kernel [k, k, C_in, features], bias [features])."""
        h, w, c_in = shape
        kernel_shape = (self.size, self.size, c_in, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), kernel_shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        if self.settled:
            return kernel, bias
        # An operator and its transpose have the same norm: iterate where the vectors are smaller.
        operator = kernel if c_in <= self.features else _transpose(kernel)
        positions = (1, 1) if self.size == 1 else (h, w)  # size 1 acts at each of them alone
        shape = (*positions, operator.shape[2])

        def start() -> jax.Array:
            count = min(VECTORS, math.prod(shape))
            return jax.random.normal(self.make_rng("params"), (count, *shape), kernel.dtype)

        state = self.variable("lipschitz", "vectors", start)
        iterations = TRAIN_ITERATIONS if train else ITERATIONS
        norm, vectors = power_iteration(operator, state.value, iterations)
        if train or self.is_initializing():
            state.value = vectors
        return kernel / jnp.maximum(1.0, norm / COEFFICIENT), bias


class LipschitzNet(nn.Module):
    """The layers of g: LipSwish, 3x3, LipSwish, 1x1, LipSwish, 3x3 back to the input's channels.

    The hidden layers have `width` channels. On inputs of one pixel, kernels of `sizes` 1 make the
    layers fully connected. `settled` is that of `SpectralConv`.

    Source: Chen et al. 2019, "Residual Flows for Invertible Generative Modeling", appendix E.
    """

    width: int
    sizes: tuple[int, int, int] = (3, 1, 3)
    settled: bool = False

    @nn.compact
    def __call__(self, shape: tuple[int, int, int], train: bool = False) -> tuple[Layer, ...]:
        """Input shape (H, W, C) -> the normalised layers."""
        layers = ()
        widths = (self.width, self.width, shape[2])
        for i, (features, size) in enumerate(zip(widths, self.sizes, strict=True)):
            raw = self.param(f"beta_{i}", nn.initializers.constant(0.5), (), jnp.float32)
            spectral = SpectralConv(features, size, self.settled, name=f"conv_{i}")
            weights = spectral(shape, train)
            layers += (Layer(jax.nn.softplus(raw), *weights),)
            shape = (*shape[:2], features)
        return layers


def evaluate(layers: tuple[Layer, ...], x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """g(x) of x [B, H, W, C], and the slopes of its activations, which make its Jacobian.

    The slopes are [B, H, W, C_in] of each layer.
    """
    slopes = []
    for layer in layers:
        x, slope = lip_swish(x, layer.beta)
        slopes.append(slope)
        x = conv(x, layer.kernel) + layer.bias.reshape(1, 1, 1, -1)
    return x, tuple(slopes)


def jvp(layers: tuple[Layer, ...], slopes: tuple[jax.Array, ...], tangent: jax.Array) -> jax.Array:
    """J t for the Jacobian J of g where `evaluate` found `slopes`; t and J t [B, H, W, C]."""
    for layer, slope in zip(layers, slopes, strict=True):
        tangent = conv(slope * tangent, layer.kernel)
    return tangent


def vjp(
    layers: tuple[Layer, ...], slopes: tuple[jax.Array, ...], cotangent: jax.Array
) -> jax.Array:
    """Jᵀ c for the Jacobian J of g where `evaluate` found `slopes`; c and Jᵀ c [B, H, W, C]."""
    for layer, slope in zip(reversed(layers), reversed(slopes), strict=True):
        cotangent = slope * conv(cotangent, _transpose(layer.kernel))
    return cotangent


def lip_swish(x: jax.Array, beta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x sigmoid(beta x) / 1.1 and its slope, which lies in (-0.1, 1) for every beta > 0.

    Source: Chen et al. 2019, section 3.3.
    """
    gate = jax.nn.sigmoid(beta * x)
    return x * gate / 1.1, gate * (1.0 + beta * x * (1.0 - gate)) / 1.1


def power_iteration(
    kernel: jax.Array, vectors: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
    """The operator norm of a convolution, by iterating several orthogonal vectors at once.

    The largest singular values of a convolution lie close together, and cross while it trains.
    A single vector would stay with the one it has found for hundreds of iterations; among
    several the largest is picked at once. The iteration starts from linearly independent vectors
    [n, H, W, C_in] and ends early once the norm changes by less than one in 100,000.

    Returns:
      (norm, float [], differentiable in the kernel; the vectors reached, orthonormal). No
      derivative is taken through the iteration, nor needed: the norm is stationary in them.

    Source: Golub & Van Loan, "Matrix Computations", section 8.2.4, on the operator's square.
    """
    constant = jax.lax.stop_gradient(kernel)
    transpose = _transpose(constant)

    def unfinished(state):
        i, _, _, _, norm, previous = state
        return (i < iterations) & ~(jnp.abs(norm - previous) <= TOLERANCE * norm)

    def improve(state):
        i, vectors, _, _, previous, _ = state
        flat = vectors.reshape(vectors.shape[0], -1)
        vectors = jnp.linalg.qr(flat.T)[0].T.reshape(vectors.shape)
        images = conv(vectors, constant)
        flat = images.reshape(vectors.shape[0], -1)
        squares, mixes = jnp.linalg.eigh(flat @ flat.T)
        norm = jnp.sqrt(jnp.maximum(squares[-1], 0))
        return i + 1, conv(images, transpose), vectors, mixes[:, -1], norm, previous

    vectors = jax.lax.stop_gradient(vectors)
    nan = jnp.array(jnp.nan, vectors.dtype)
    start = (0, vectors, vectors, jnp.zeros(vectors.shape[0], vectors.dtype), nan, nan)
    _, _, vectors, mix, _, _ = jax.lax.while_loop(unfinished, improve, start)
    best = jnp.tensordot(mix, vectors, axes=1)[None]
    return jnp.linalg.norm(conv(best, kernel)), vectors


def _transpose(kernel: jax.Array) -> jax.Array:
    """The kernel of the transposed operator; exact for stride 1, zero padding and odd sizes."""
    return kernel[::-1, ::-1].swapaxes(2, 3)
