"""The layers that flows share: act-norm, invertible 1x1 convolution, squeeze, linear."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np

from ecood.convolution import batch_first, batch_last, conv
from ecood.dense import dense
from ecood.errors import InputError, check_whole
from ecood.words import number_of

__all__ = [
    "LIMIT",
    "ActNorm",
    "Conv",
    "InvertibleConv",
    "Linear",
    "MultiScale",
    "Squeeze",
    "check_sides",
    "check_sizes",
    "scan_steps",
]

LIMIT = 1e4  # of values on the way to the inverse, which an act-norm has given unit variance


class MultiScale(nn.Module):
    """What flows of `levels` times a squeeze by 2 and `depth` steps of some `width` share.

    They have these and `image_shape`, (H, W, C), as attributes; other sizes than make a flow are
    refused.
    """

    def __post_init__(self) -> None:
        check_sizes(self, "levels", "depth", "width")
        check_sides(self, 2**self.squeezes)
        super().__post_init__()

    @property
    def squeezes(self) -> int:
        """How often an image is squeezed: once a level."""
        return self.levels

    @property
    def stacked(self) -> tuple[str, ...]:
        """Names of the parameters that hold a level's steps one after the other."""
        return tuple(f"level_{i}" for i in range(self.levels))

    def stacks(self, step: type[nn.Module], *attributes: Any) -> list[nn.Module]:
        """Of each level `depth` steps with stacked variables, compiled once for any depth."""
        scanned = scan_steps(step, self.depth)
        return [scanned(*attributes, name=name) for name in self.stacked]

    def __call__(self, x: jax.Array) -> jax.Array:
        """`log_prob`; `init` through it initialises from the batch it is given."""
        return self.log_prob(x)


def check_sizes(module: nn.Module, *names: str) -> None:
    """Refuses attributes, by name, that are no whole numbers, 1 or more."""
    for name in names:
        check_whole(name, getattr(module, name))


def check_sides(module: nn.Module, divisor: int) -> None:
    """Refuses images whose sides the `levels` of a module cannot halve."""
    height, width, _ = module.image_shape
    if height % divisor or width % divisor:
        raise InputError(
            f"{number_of(module.levels, 'level needs', 'levels need')} sides divisible by "
            f"{divisor}, and the images are {height} x {width} pixels; take fewer levels or "
            "resize the images."
        )


def scan_steps(step: type[nn.Module], depth: int) -> type[nn.Module]:
    """`depth` steps, one after the other, whose variables are stacked along a first axis.

    A step has the methods `forward_step` and `inverse_step`, maybe `train_step` and `map_step`.
    """
    scan = {
        "variable_axes": {"params": 0, "fixed": 0, "lipschitz": 0},
        "split_rngs": {"params": True, "probe": True},
        "length": depth,
    }
    methods = {"forward_step": scan, "inverse_step": scan | {"reverse": True}}
    methods |= {name: scan for name in ("train_step", "map_step") if hasattr(step, name)}
    return nn.scan(step, methods=methods)


class ActNorm(nn.Module):
    """Per-channel affine layer, z = (x + bias) * exp(log_scale).

    Data-dependent initialisation happens in `init` and lives in the parameters: the batch that
    `init` is given comes out with zero mean and unit variance per channel. There is no flag.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.1.
    """

    @nn.compact
    def _parameters(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Bias and log_scale [1, ..., C], log_det [B]."""
        axes = tuple(range(x.ndim - 1))
        bias = self.param("bias", lambda _: -jnp.mean(x, axes))
        log_scale = self.param("log_scale", lambda _: -jnp.log(jnp.std(x, axes) + 1e-6))
        shape = (1,) * len(axes) + (-1,)
        return bias.reshape(shape), log_scale.reshape(shape), _constant_log_det(x, log_scale)

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, ..., C] -> (z, log_det [B])."""
        bias, log_scale, log_det = self._parameters(x)
        return (x + bias) * jnp.exp(log_scale), log_det

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, ..., C] -> (x, log_det [B])."""
        bias, log_scale, log_det = self._parameters(z)
        return z * jnp.exp(-log_scale) - bias, -log_det


class InvertibleConv(nn.Module):
    """Invertible 1x1 convolution, z = x W with W = R L (U + diag(exp(log_scale))).

    R is a random rotation that stays fixed (collection "fixed"); the unit lower L, the strict
    upper U and log_scale are learned and start at the identity, so W starts as R and
    log|det W| = sum(log_scale). Glow's own form has the LU factors of R in the parameters and
    keeps only its permutation: the same family around the same start, but here the learned
    part starts well conditioned.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.2.
    """

    @nn.compact
    def _factors(self, x: jax.Array) -> tuple[jax.Array, ...]:
        channels, zeros = x.shape[-1], nn.initializers.zeros

        def start() -> jax.Array:
            return jax.random.orthogonal(self.make_rng("params"), channels, dtype=jnp.float32)

        rotation = self.variable("fixed", "rotation", start)
        lower = self.param("lower", zeros, (channels, channels), jnp.float32)
        upper = self.param("upper", zeros, (channels, channels), jnp.float32)
        log_scale = self.param("log_scale", zeros, (channels,), jnp.float32)
        below = np.tri(channels, k=-1, dtype=bool)  # a mask of numpy compiles nothing
        lower = jnp.where(below, lower, 0) + np.eye(channels, dtype=np.float32)
        upper = jnp.where(below.T, upper, 0) + jnp.diag(jnp.exp(log_scale))
        return rotation.value, lower, upper, _constant_log_det(x, log_scale)

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z, log_det [B])."""
        rotation, lower, upper, log_det = self._factors(x)
        return _mix(x, upper.T @ lower.T @ rotation.T), log_det

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H, W, C] -> (x, log_det [B])."""
        rotation, lower, upper, log_det = self._factors(z)
        solve = jax.scipy.linalg.solve_triangular
        inverse = solve(upper, solve(lower, rotation.T, lower=True, unit_diagonal=True))
        return _mix(z, inverse.T), -log_det


class Squeeze(nn.Module):
    """Space to depth by 2, H and W even: [B, H, W, C] <-> [B, H/2, W/2, 4C]; its log-det is zero.

    Source: Dinh et al. 2017 (RealNVP), section 3.6.
    """

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z [B, H/2, W/2, 4C], zeros [B])."""
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(b, h // 2, w // 2, 4 * c), jnp.zeros(b, jnp.float32)

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H, W, 4C] -> (x [B, 2H, 2W, C], zeros [B])."""
        b, h, w, c = z.shape
        z = z.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
        return z.reshape(b, 2 * h, 2 * w, c // 4), jnp.zeros(b, jnp.float32)


class Conv(nn.Module):
    """Stride-1 convolution with bias, of odd size, and a learned gain if it starts at zero.

    That is Glow's Conv2dZeros, whose output is scaled by exp(3 * log_gain): a coupling starts as
    the identity.
    """

    features: int
    size: int = 3
    zero: bool = False
    dtype: Any = jnp.float32  # of the computation; parameters stay float32

    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [B, H, W, C] -> `dtype` [B, H, W, features]."""
        kernel, bias = self.kernel_and_bias(x.shape[-1])
        return conv(x.astype(self.dtype), kernel) + bias.reshape(1, 1, 1, -1)

    @nn.compact
    def kernel_and_bias(self, channels: int) -> tuple[jax.Array, jax.Array]:
        """([size, size, channels, features], [features]), in `dtype`."""
        zeros = nn.initializers.zeros
        init = zeros if self.zero else nn.initializers.he_normal()
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", zeros, (self.features,), jnp.float32)
        if self.zero:
            gain = jnp.exp(3 * self.param("log_gain", zeros, (self.features,), jnp.float32))
            kernel, bias = kernel * gain.reshape(1, 1, 1, -1), bias * gain
        return kernel.astype(self.dtype), bias.astype(self.dtype)


class Linear(nn.Module):
    """x W + b, whose W starts with LeCun's variance, or at zero."""

    features: int
    dtype: Any = jnp.float32  # of the product; parameters stay float32
    zero: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, beside: tuple[jax.Array, jax.Array] | None = None
    ) -> jax.Array:
        """Float [..., K] -> float32 at least, [..., features].

        `beside` is (y [..., M], its kernel [M, features]), whose product is added, all by one.
        """
        zeros, shape = nn.initializers.zeros, (x.shape[-1], self.features)
        init = zeros if self.zero else nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", zeros, (self.features,), jnp.float32)
        if beside is not None:
            x = jnp.concatenate([x, beside[0]], axis=-1)
            kernel = jnp.concatenate([kernel, beside[1]])
        return dense(x.astype(self.dtype), kernel.astype(self.dtype), bias)


def _mix(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The matrix [C, C] times the channels of x [B, H, W, C]."""
    product = jax.lax.dot_general(matrix, batch_last(x), (((1,), (0,)), ((), ())))
    return batch_first(product)


def _constant_log_det(x: jax.Array, log_scale: jax.Array) -> jax.Array:
    """[B]: the channels' log_scale [C] at each position of x [B, ..., C]."""
    return jnp.full(x.shape[0], math.prod(x.shape[1:-1]) * jnp.sum(log_scale), jnp.float32)
