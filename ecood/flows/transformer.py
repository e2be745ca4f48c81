"""The transformer inside flows over patches."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.flows.layers import Linear

__all__ = ["Transformer"]


class Transformer(nn.Module):
    """Self-attention and a two-layer network, `layers` times, each after a normalisation.

    The normalisations have no parameters: those of the product that follows take their place.
    With `causal`, position t knows positions up to t alone.
    """

    width: int
    layers: int
    heads: int
    dtype: Any
    causal: bool

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """[B, T, width] -> the same, normalised: bounded whatever the image."""
        b, t, _ = h.shape
        for _ in range(self.layers):
            projected = Linear(3 * self.width, self.dtype)(_normalised(h)).astype(self.dtype)
            of_heads = projected.reshape(b, t, 3 * self.heads, self.width // self.heads)
            query, key, value = jnp.split(of_heads, 3, axis=2)
            mixed = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
            h += Linear(self.width, self.dtype)(mixed.reshape(b, t, self.width))
            inner = Linear(4 * self.width, self.dtype)(_normalised(h))
            h += Linear(self.width, self.dtype)(nn.gelu(inner).astype(self.dtype))
        return _normalised(h)


def _normalised(h: jax.Array) -> jax.Array:
    """Zero mean and unit variance along the last axis."""
    h -= jnp.mean(h, axis=-1, keepdims=True)
    return h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)
