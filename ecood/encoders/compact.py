"""A small residual network for 28×28 and 32×32 images, to be trained without labels.

Made for two CPU cores as much as for an accelerator: the stem cuts the image into 4×4
patches, so that the rest is matrix products of many channels. The weights are
standardised, not the activations, which costs nothing and leaves an embedding
independent of its batch.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.convolution import conv
from ecood.encoders.encoder import Encoder, encoder

__all__ = ["Compact", "compact"]

PATCH = 4


class Conv(nn.Module):
    """Stride-1 convolution; the derivative of flax's own is slow in a loop on a CPU."""

    features: int
    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return conv(x, self.filters(kernel)) + bias.reshape(1, 1, 1, -1)

    def filters(self, kernel: jax.Array) -> jax.Array:
        """What the images are convolved with, of the parameter [h, w, C, features]."""
        return kernel


class StandardisedConv(Conv):
    """With filters of mean 0 and norm 1, times a learned gain.

    Source: Qiao et al. 2019, "Weight standardization"; the scale is that of Brock et
    al. 2021, "Characterizing signal propagation to close the performance gap in
    unnormalized ResNets".
    """

    def filters(self, kernel: jax.Array) -> jax.Array:
        """The standardised filters."""
        gain = self.param("gain", nn.initializers.ones, (self.features,), jnp.float32)
        kernel -= jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
        norm = jnp.sqrt(jnp.sum(kernel**2, axis=(0, 1, 2), keepdims=True) + 1e-6)
        return kernel * (gain.reshape(1, 1, 1, -1) / norm)


class Block(nn.Module):
    """A bottleneck residual block: 1×1 down, 3×3, 1×1 up, activations first.

    Source: He et al. 2016, "Identity mappings in deep residual networks".
    """

    bottleneck: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = StandardisedConv(self.bottleneck, 1)(nn.relu(x))
        h = StandardisedConv(self.bottleneck, 3)(nn.relu(h))
        h = StandardisedConv(x.shape[-1], 1)(nn.relu(h))
        return x + h * self.param("scale", nn.initializers.constant(0.5), (), jnp.float32)


class Head(nn.Module):
    """The projection for the contrastive loss alone: [B, d] -> [B, features]."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.features)(nn.relu(nn.LayerNorm()(nn.Dense(self.hidden)(x))))


class Compact(nn.Module):
    """uint8 [B, H, W, C] -> unit-norm embeddings, float32 [B, features].

    H and W are multiples of four. In training, images are float32 in [0, 1]
    (`embed_pixels`, `project`).
    """

    channels: int  # C of the images
    width: int = 128  # channels of the trunk
    bottleneck: int = 64  # channels of the 3×3 convolutions
    blocks: int = 4  # residual blocks
    features: int = 128  # d, of the embedding
    projection: int = 64  # width of the training head's output

    def setup(self):  # noqa: D102
        self.stem = Conv(self.width, 3)
        self.trunk = [Block(self.bottleneck) for _ in range(self.blocks)]
        self.norm = nn.LayerNorm()
        self.embedding = nn.Dense(self.features)
        self.head = Head(2 * self.features, self.projection)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Embeds uint8 images."""
        return self.embed_pixels(images.astype(jnp.float32) / 255)

    def embed_pixels(self, x: jax.Array) -> jax.Array:
        """Embeds float images."""
        b, h, w, c = x.shape
        patches = (2 * x - 1).reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c)
        patches = patches.transpose(0, 1, 3, 2, 4, 5)
        x = self.stem(patches.reshape(b, h // PATCH, w // PATCH, PATCH * PATCH * c))
        for block in self.trunk:
            x = block(x)
        x = jnp.mean(nn.relu(self.norm(x)), axis=(1, 2))
        return _unit_norm(self.embedding(x))

    def project(self, x: jax.Array) -> jax.Array:
        """Images -> [B, projection], unit norm: where views are compared."""
        return _unit_norm(self.head(self.embed_pixels(x)))


def _unit_norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def compact(module: Compact, variables: Any) -> Encoder:
    """A trained compact encoder, without the projection head if the variables have one."""
    params = {name: value for name, value in variables["params"].items() if name != "head"}
    return encoder(module, {"params": params}, name="compact")
