"""The logit of pixels, continued beyond [0, 1]."""

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["Logit"]


class Logit(nn.Module):
    """z = logit(a + (1 - 2a) x) for x in [0, 1], and the tangent at the nearer end beyond.

    Residual flows stretch space by less than log 2 nats a block and dimension, and the logit
    spares them the stretching of the many pixels near black and white. As the papers have it,
    it has no value at or beyond x = -a / (1 - 2a), where a perturbed image may well lie: there
    every density of it would be NaN. Continued by its tangents it is a bijection of all of R,
    once continuously differentiable, and the same density on images.

    Attributes:
      margin: a, in (0, 1/2).

    Source: Dinh et al. 2017 (RealNVP), section 4.1, on [0, 1].
    """

    margin: float = 0.05

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """X [B, ...] -> (z, log_det [B])."""
        inside = jnp.clip(x, 0.0, 1.0)
        p = self.margin + (1 - 2 * self.margin) * inside
        log_slope = self._log_slope(p)
        z = jnp.log(p) - jnp.log1p(-p) + jnp.exp(log_slope) * (x - inside)
        return z, _sum(log_slope)

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Z [B, ...] -> (x, log_det [B])."""
        end = jnp.log1p(-self.margin) - jnp.log(self.margin)
        inside = jnp.clip(z, -end, end)
        p = jax.nn.sigmoid(inside)
        log_slope = self._log_slope(p)
        x = (p - self.margin) / (1 - 2 * self.margin) + jnp.exp(-log_slope) * (z - inside)
        return x, -_sum(log_slope)

    def _log_slope(self, p: jax.Array) -> jax.Array:
        return jnp.log(1 - 2 * self.margin) - jnp.log(p) - jnp.log1p(-p)


def _sum(log_slope: jax.Array) -> jax.Array:
    return jnp.sum(log_slope, axis=tuple(range(1, log_slope.ndim))).astype(jnp.float32)
