"""The layers that flows share: act-norm, invertible 1x1 convolution, squeeze."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy.linalg

from ecood.errors import InputError
from ecood.flows.conv import conv
from ecood.flows.three_layers import batch_first, batch_last

__all__ = ["ActNorm", "Conv", "InvertibleConv", "Squeeze", "check_sizes"]


def check_sizes(image_shape: tuple[int, int, int], levels: int, **sizes: int) -> None:
    """Refuses what makes no multi-scale flow.

    Args:
      image_shape: (H, W, C).
      levels: how often the image is squeezed by 2.
      **sizes: what else must be at least 1, by name.

    Raises:
      InputError: naming the first size that does not fit.
    """
    for name, size in {"levels": levels, **sizes}.items():
        if size < 1:
            raise InputError(f"{name} is {size}; expected 1 or more.")
    height, width, _ = image_shape
    if height % 2**levels or width % 2**levels:
        raise InputError(
            f"{levels} levels need sides divisible by {2**levels}, and the images are {height} x "
            f"{width} pixels; take fewer levels or resize the images."
        )


class ActNorm(nn.Module):
    """Per-channel affine layer, z = (x + bias) * exp(log_scale).

    Data-dependent initialisation happens in `init` and lives in the parameters: the batch that
    `init` is given comes out with zero mean and unit variance per channel. There is no flag.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.1.
    """

    @nn.compact
    def _parameters(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        axes = tuple(range(x.ndim - 1))
        bias = self.param("bias", lambda _: -jnp.mean(x, axes))
        log_scale = self.param("log_scale", lambda _: -jnp.log(jnp.std(x, axes) + 1e-6))
        return bias, log_scale

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, ..., C] -> (z, log_det [B])."""
        bias, log_scale = self._parameters(x)
        shape = (1,) * (x.ndim - 1) + (-1,)
        z = (x + bias.reshape(shape)) * jnp.exp(log_scale).reshape(shape)
        return z, _constant_log_det(x, jnp.sum(log_scale))

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, ..., C] -> (x, log_det [B])."""
        bias, log_scale = self._parameters(z)
        shape = (1,) * (z.ndim - 1) + (-1,)
        x = z * jnp.exp(-log_scale).reshape(shape) - bias.reshape(shape)
        return x, _constant_log_det(z, -jnp.sum(log_scale))


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
        channels = x.shape[-1]
        rotation = self.variable(
            "fixed",
            "rotation",
            lambda: jax.random.orthogonal(self.make_rng("params"), channels, dtype=jnp.float32),
        )
        lower = self.param("lower", nn.initializers.zeros, (channels, channels), jnp.float32)
        upper = self.param("upper", nn.initializers.zeros, (channels, channels), jnp.float32)
        log_scale = self.param("log_scale", nn.initializers.zeros, (channels,), jnp.float32)
        lower = jnp.tril(lower, -1) + jnp.eye(channels, dtype=lower.dtype)
        upper = jnp.triu(upper, 1) + jnp.diag(jnp.exp(log_scale))
        return rotation.value, lower, upper, log_scale

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z, log_det [B])."""
        rotation, lower, upper, log_scale = self._factors(x)
        z = _mix(x, upper.T @ lower.T @ rotation.T)
        return z, _constant_log_det(x, jnp.sum(log_scale))

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H, W, C] -> (x, log_det [B])."""
        rotation, lower, upper, log_scale = self._factors(z)
        solve = jax.scipy.linalg.solve_triangular
        inverse = solve(upper, solve(lower, rotation.T, lower=True, unit_diagonal=True))
        return _mix(z, inverse.T), _constant_log_det(z, -jnp.sum(log_scale))


class Squeeze(nn.Module):
    """Space to depth by 2: [B, H, W, C] <-> [B, H/2, W/2, 4C]; its log-determinant is zero.

    Source: Dinh et al. 2017 (RealNVP), section 3.6.
    """

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C], H and W even -> (z [B, H/2, W/2, 4C], zeros [B])."""
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(b, h // 2, w // 2, 4 * c), jnp.zeros(b, jnp.float32)

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H, W, 4C] -> (x [B, 2H, 2W, C], zeros [B])."""
        b, h, w, c = z.shape
        z = z.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
        return z.reshape(b, 2 * h, 2 * w, c // 4), jnp.zeros(b, jnp.float32)


class Conv(nn.Module):
    """Convolution with bias, through `ecood.flows.conv`, and a learned gain if it starts at zero.

    Attributes:
      features: output channels.
      size: kernel size, 1 or 3.
      zero: start at zero, with the output scaled by exp(3 * log_gain) (Glow's Conv2dZeros), so
        that a coupling starts as the identity.
      dtype: of the computation; parameters stay float32.
    """

    features: int
    size: int = 3
    zero: bool = False
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [B, H, W, C] -> `dtype` [B, H, W, features]."""
        kernel, bias = self.kernel_and_bias(x.shape[-1])
        return conv(x.astype(self.dtype), kernel) + bias.reshape(1, 1, 1, -1)

    @nn.compact
    def kernel_and_bias(self, channels: int) -> tuple[jax.Array, jax.Array]:
        """([size, size, channels, features], [features]), in `dtype`."""
        init = nn.initializers.zeros if self.zero else nn.initializers.he_normal()
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        if self.zero:
            gain = jnp.exp(
                3 * self.param("log_gain", nn.initializers.zeros, (self.features,), jnp.float32)
            )
            kernel, bias = kernel * gain.reshape(1, 1, 1, -1), bias * gain
        return kernel.astype(self.dtype), bias.astype(self.dtype)


def _mix(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The matrix [C, C] times the channels of x [B, H, W, C]."""
    product = jax.lax.dot_general(matrix, batch_last(x), (((1,), (0,)), ((), ())))
    return batch_first(product)


def _constant_log_det(x: jax.Array, per_position: jax.Array) -> jax.Array:
    positions = math.prod(x.shape[1:-1])
    return jnp.full(x.shape[0], positions * per_position, jnp.float32)
