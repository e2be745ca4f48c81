"""DINOv2, ViT-S/14 and ViT-B/14, as Hugging Face's `Dinov2Model` computes them.

Source: Oquab et al. 2023, "DINOv2: learning robust visual features without supervision";
Dosovitskiy et al. 2021, "An image is worth 16x16 words".
"""

import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood.encoders import hub
from ecood.encoders.encoder import Encoder, encoder
from ecood.encoders.layers import IMAGENET_MEAN, IMAGENET_STD, preprocess
from ecood.errors import InputError

__all__ = ["DINOv2", "dinov2"]


class DINOv2(nn.Module):
    """uint8 [B, H, W, 1 or 3] -> float32 [B, width], class token; a ViT-S/14."""

    width: int = 384  # of the tokens
    depth: int = 12
    heads: int = 6
    size: int = 98  # side in pixels that images are resized to, a multiple of `patch`
    patch: int = 14  # its side in pixels
    grid: int = 37  # patches along a side of the images that the positions were trained for

    def __call__(self, images: jax.Array) -> jax.Array:
        """Embeds images."""
        return self.tokens(preprocess(images, self.size, IMAGENET_MEAN, IMAGENET_STD))[:, 0]

    @nn.compact
    def tokens(self, x: jax.Array) -> jax.Array:
        """float32 [B, h, w, 3], standardised -> [B, 1 + h/14 * w/14, width], class token first."""
        side = (self.patch, self.patch)
        name = "embeddings.patch_embeddings.projection"
        x = nn.Conv(self.width, side, side, padding="VALID", name=name)(x)
        batch, rows, columns, _ = x.shape
        x = x.reshape(batch, rows * columns, self.width)
        normal = nn.initializers.normal(0.02)
        start = self.param("embeddings.cls_token", normal, (1, 1, self.width), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(start, (batch, 1, self.width)), x], axis=1)
        x += self._positions(rows, columns)
        for layer in range(self.depth):
            x = self._layer(x, f"encoder.layer.{layer}")
        return _layer_norm("layernorm")(x)

    def _positions(self, rows: int, columns: int) -> jax.Array:
        """The position embeddings, [1, 1 + rows * columns, width], interpolated from the grid."""
        name, shape = "embeddings.position_embeddings", (1, 1 + self.grid**2, self.width)
        table = self.param(name, nn.initializers.normal(0.02), shape, jnp.float32)
        grid = table[0, 1:].reshape(self.grid, self.grid, self.width)
        down, across = _cubic_weights(self.grid, rows), _cubic_weights(self.grid, columns)
        grid = jnp.einsum("rh,cw,hwd->rcd", down, across, grid, precision="highest")
        return jnp.concatenate([table[:, :1], grid.reshape(1, -1, self.width)], axis=1)

    def _layer(self, x: jax.Array, name: str) -> jax.Array:
        def scaled(h: jax.Array, index: int) -> jax.Array:
            scale = f"{name}.layer_scale{index}.lambda1"
            return h * self.param(scale, nn.initializers.ones, (self.width,))[None, None]

        x += scaled(self._attention(_layer_norm(f"{name}.norm1")(x), f"{name}.attention"), 1)
        h = nn.Dense(4 * self.width, name=f"{name}.mlp.fc1")(_layer_norm(f"{name}.norm2")(x))
        h = nn.Dense(self.width, name=f"{name}.mlp.fc2")(nn.gelu(h, approximate=False))
        return x + scaled(h, 2)

    def _attention(self, x: jax.Array, name: str) -> jax.Array:
        def project(part: str) -> jax.Array:
            projected = nn.Dense(self.width, name=f"{name}.attention.{part}")(x)
            return projected.reshape(*x.shape[:2], self.heads, -1)

        mixed = jax.nn.dot_product_attention(project("query"), project("key"), project("value"))
        return nn.Dense(self.width, name=f"{name}.output.dense")(mixed.reshape(x.shape))


def _layer_norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)


def _cubic_weights(size: int, out: int) -> np.ndarray:
    """[out, size]: PyTorch's bicubic resampling of one axis, without antialiasing.

    Keys's kernel with a = -0.75, the border repeated; `jax.image.resize` has a = -0.5
    and renormalises at the border.

    Source: Keys 1981, "Cubic convolution interpolation for digital image processing".
    """
    a = -0.75
    centres = (np.arange(out) + 0.5) * size / out - 0.5
    weights = np.zeros((out, size), np.float32)
    for tap in range(-1, 3):
        index = np.floor(centres).astype(int) + tap
        t = np.abs(centres - index)
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * (t**3 - 5 * t**2 + 8 * t - 4)
        np.add.at(weights, (np.arange(out), index.clip(0, size - 1)), np.where(t <= 1, near, far))
    return weights


def dinov2(source: str | os.PathLike, *, size: int = 98, sha256: str | None = None) -> Encoder:
    """ViT-S/14 or ViT-B/14, whichever the weights are (`ecood.encoders.hub.find`).

    The source is a file of `Dinov2Model`, its folder, "facebook/dinov2-small" or
    "-base", and `sha256` the file's, if given. Images are resized to `size` x `size`
    pixels, a multiple of 14; 224 has full accuracy on large images. Raises `InputError`
    for another size, or weights that cannot be found or read or are others.
    """
    if size <= 0 or size % 14:
        raise InputError(
            f"size is {size}; expected a positive multiple of 14, the side of DINOv2's patches: "
            "use 98 or 224."
        )
    path = hub.find(source, sha256)
    arrays = {name.removeprefix("dinov2."): x for name, x in hub.read(path).items()}
    if arrays.get("layernorm.weight", np.zeros(384)).shape == (768,):
        module, name = DINOv2(width=768, heads=12, size=size), f"dinov2-base@{size}"
    else:
        module, name = DINOv2(size=size), f"dinov2-small@{size}"
    ignore = ("classifier.", "embeddings.mask_token")
    return encoder(module, hub.fit(arrays, module, path, ignore=ignore), name=name)
