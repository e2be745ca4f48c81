"""Encoders that have learned nothing: what an encoder must beat to be worth its cost."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood import keys
from ecood.encoders.encoder import Encoder, encoder
from ecood.encoders.layers import strided_conv

NOTHING = np.zeros((0, 2), np.uint32)  # fingerprints of the images that they were trained on

__all__ = ["Pixels", "RandomFeatures", "pixels", "random_features"]


class Pixels(nn.Module):
    """The pixels less their mean: uint8 [B, H, W, C] -> float32 [B, H * W * C]."""

    def __call__(self, images: jax.Array) -> jax.Array:
        """Embeds images."""
        flat = images.reshape(images.shape[0], -1).astype(jnp.float32)
        return flat - jnp.mean(flat, axis=1, keepdims=True)


class RandomFeatures(nn.Module):
    """Random zero-mean filters, rectified, averaged over the four quarters of the image.

    uint8 [B, H, W, C] -> float32 [B, 4 * filters]; H and W at least 2 * size + 1.

    Source: Saxe et al. 2011, "On random weights and unsupervised feature learning".
    """

    channels: int
    filters: int = 128
    size: int = 5  # of their sides, in pixels; they are applied at every second position

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Embeds images."""
        shape = (self.size, self.size, self.channels, self.filters)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32)
        kernel -= jnp.mean(kernel, axis=(0, 1), keepdims=True)
        x = nn.relu(strided_conv(images.astype(jnp.float32) / 255, kernel, 2))
        halves = jnp.array_split(x, 2, axis=1)
        quarters = [quarter for half in halves for quarter in jnp.array_split(half, 2, axis=2)]
        return jnp.concatenate([jnp.mean(q, axis=(1, 2)) for q in quarters], axis=-1)


def pixels() -> Encoder:
    """Compares images by Pearson's correlation of their pixels."""
    return encoder(Pixels(), {}, name="pixels", trained_on=NOTHING)


def random_features(key: jax.Array, channels: int) -> Encoder:
    """Compares images of so many channels by random filters, which the key fixes."""
    module = RandomFeatures(channels)
    images = jnp.zeros((1, 32, 32, channels), jnp.uint8)
    with keys.same_bits():
        variables = module.init(keys.threefry(key), images)
    return encoder(module, variables, name="random_features", trained_on=NOTHING)
