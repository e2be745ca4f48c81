"""The logit of pixels, continued beyond [0, 1]."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.errors import InputError

__all__ = ["Logit"]

STEEPEST = 256.0  # beyond [0, 1]: one unit of z for one grey level


class Logit(nn.Module):
    """z = logit(a + (1 - 2a) x) for x in [0, 1], continued by straight lines.

    Residual flows stretch space by less than log 2 nats a block and dimension. The logit spares
    them the stretching of the many pixels that are black or white: a small `margin` gives the
    darkest and the lightest grey level far more than their share, 8 of 28 units each at 1e-6.

    The papers' logit has no value far outside of [0, 1], where images with noise have pixels.
    The lines make it a bijection of all of R and leave the density of images as it is. They are
    its tangents, where these are not steeper than `STEEPEST`. Steeper ones would make the least
    noise so improbable that all images with noise look alike; there the density has a step.

    Attributes:
      margin: a, in (0, 1/2).

    Source: Dinh et al. 2017 (RealNVP), section 4.1, on [0, 1].
    """

    margin: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.margin < 0.5:
            raise InputError(f"margin is {self.margin}; expected a number between 0 and 1/2.")
        super().__post_init__()

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Pixels [B, ...] -> (z, log_det [B])."""
        z, log_slope = self.forward_and_log_slope(x)
        return z, _summed(log_slope)

    def forward_and_log_slope(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Pixels [B, ...] -> (z, the terms of its log-det, [B, ...])."""
        a = self.margin
        inside = jnp.clip(x, 0.0, 1.0)
        log_p = jnp.log(a + (1 - 2 * a) * inside)
        log_q = jnp.log(a + (1 - 2 * a) * (1.0 - inside))
        beyond = x - inside
        z = log_p - log_q + self._outer_slope * beyond
        return z, self._log_slope(jnp.log1p(-2 * a) - log_p - log_q, beyond)

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Latents [B, ...] -> (x, log_det [B])."""
        a = self.margin
        end = math.log1p(-a) - math.log(a)
        inside = jnp.clip(z, -end, end)
        beyond = z - inside
        x = (jax.nn.sigmoid(inside) - a) / (1 - 2 * a) + beyond / self._outer_slope
        log_slope = jnp.log1p(-2 * a) - jax.nn.log_sigmoid(z) - jax.nn.log_sigmoid(-z)
        return x, -_summed(self._log_slope(log_slope, beyond))

    @property
    def _outer_slope(self) -> float:
        return min((1 - 2 * self.margin) / (self.margin * (1 - self.margin)), STEEPEST)

    def _log_slope(self, inside: jax.Array, beyond: jax.Array) -> jax.Array:
        return jnp.where(beyond == 0, inside, jnp.log(self._outer_slope))


def _summed(log_slope: jax.Array) -> jax.Array:
    return jnp.sum(log_slope, axis=tuple(range(1, log_slope.ndim))).astype(jnp.float32)
