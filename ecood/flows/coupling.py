"""Affine coupling: half of the channels scale and shift the other half."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.convolution import batch_first, batch_last, three_layers
from ecood.flows.layers import LIMIT, Conv

__all__ = ["AffineCoupling"]

STEEPEST = 80.0  # exp of it is finite in float32


class AffineCoupling(nn.Module):
    """z = [a, (b + shift(a)) * sigmoid(h(a) + 2)], where x = [a, b] along the channels.

    The network is Glow's: 3x3, ReLU, 1x1, ReLU, 3x3 starting at zero. Whatever its dtype, scales
    and log-determinants are float32.

    Away from the training data a scale can be anything down to zero, so its inverse stretches
    without limit, and a stack of couplings does so beyond what floats hold (Behrmann et al. 2021).
    The inverse is exact where all activations are within `LIMIT`, as those of images are by far,
    and finite everywhere: it stops there.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.3 and its released code; Behrmann et al. 2021,
    "Understanding and Mitigating Exploding Inverses in Invertible Neural Networks".
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def _scale_and_shift(self, a: jax.Array, channels: int) -> tuple[jax.Array, jax.Array]:
        """a [C_a, H, W, B] -> (log_scale, shift), float32 [channels, H, W, B]."""
        layers = (
            Conv(self.width, 3, dtype=self.dtype, name="inner"),
            Conv(self.width, 1, dtype=self.dtype, name="middle"),
            Conv(2 * channels, 3, zero=True, dtype=self.dtype, name="outer"),
        )
        inputs = (a.shape[0], self.width, self.width)
        pairs = [layer.kernel_and_bias(c) for layer, c in zip(layers, inputs, strict=True)]
        h = three_layers(a.astype(self.dtype), *map(tuple, zip(*pairs, strict=True)))
        shift, raw = jnp.split(h.astype(jnp.float32), 2)
        return nn.log_sigmoid(raw + 2.0), shift

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C], C even -> (z, log_det [B])."""
        z, log_scale = self.forward_and_log_scale(x)
        return z, jnp.sum(log_scale, axis=(0, 1, 2))

    def forward_and_log_scale(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C], C even -> (z, the terms of its log-det, float32 [C / 2, H, W, B])."""
        a, b = jnp.split(batch_last(x), 2)
        log_scale, shift = self._scale_and_shift(a, b.shape[0])
        z = jnp.concatenate([a, (b + shift) * jnp.exp(log_scale)])
        return batch_first(z), log_scale

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H, W, C], C even -> (x, log_det [B])."""
        a, b = jnp.split(jnp.clip(batch_last(z), -LIMIT, LIMIT), 2)
        log_scale, shift = self._scale_and_shift(a, b.shape[0])
        b = b * jnp.exp(jnp.minimum(-log_scale, STEEPEST)) - shift
        x = jnp.concatenate([a, jnp.clip(b, -LIMIT, LIMIT)])
        return batch_first(x), -jnp.sum(log_scale, axis=(0, 1, 2))
