"""ResNet-18 and ResNet-50 as Hugging Face's `ResNetModel` computes them.

Source: He et al. 2016, "Deep residual learning for image recognition"; the stride sits in the
3×3 convolution of a bottleneck, as in PyTorch ("ResNet v1.5").
"""

import os

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.encoders import hub
from ecood.encoders.encoder import Encoder, encoder
from ecood.encoders.layers import IMAGENET_MEAN, IMAGENET_STD, conv_norm, preprocess

__all__ = ["ResNet", "resnet"]


class ResNet(nn.Module):
    """uint8 [B, H, W, 1 or 3] -> float32 [B, widths[-1]]; ResNet-18 by default."""

    depths: tuple[int, ...] = (2, 2, 2, 2)  # residual layers of each stage
    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of each stage
    bottleneck: bool = False  # 1×1, 3×3 to a quarter of the width, 1×1; else two 3×3
    stem: int = 64  # channels
    size: int = 96  # side in pixels that images are resized to

    def __call__(self, images: jax.Array) -> jax.Array:
        """Embeds images."""
        x = preprocess(images, self.size, IMAGENET_MEAN, IMAGENET_STD)
        return jnp.mean(self.features(x), axis=(1, 2))

    @nn.compact
    def features(self, x: jax.Array) -> jax.Array:
        """The last feature map: float32 [B, h, w, 3], standardised -> [B, h/32, w/32, C]."""
        x = nn.relu(_conv_norm(x, self.stem, 7, "embedder.embedder", stride=2))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for layer in range(depth):
                stride = 2 if stage > 0 and layer == 0 else 1
                x = self._layer(x, width, stride, f"encoder.stages.{stage}.layers.{layer}")
        return x

    def _layer(self, x: jax.Array, width: int, stride: int, name: str) -> jax.Array:
        if self.bottleneck:
            convolutions = [(width // 4, 1, 1), (width // 4, 3, stride), (width, 1, 1)]
        else:
            convolutions = [(width, 3, stride), (width, 3, 1)]
        h = x
        for index, (features, size, step) in enumerate(convolutions):
            h = h if index == 0 else nn.relu(h)
            h = _conv_norm(h, features, size, f"{name}.layer.{index}", stride=step)
        if x.shape[-1] != width or stride > 1:
            x = _conv_norm(x, width, 1, f"{name}.shortcut", stride=stride)
        return nn.relu(x + h)


def _conv_norm(x: jax.Array, features: int, size: int, name: str, stride: int) -> jax.Array:
    names = f"{name}.convolution", f"{name}.normalization"
    return conv_norm(x, features, size, *names, epsilon=1e-5, stride=stride, padding=size // 2)


def resnet(source: str | os.PathLike, *, size: int = 96, sha256: str | None = None) -> Encoder:
    """ResNet-18 or ResNet-50, whichever the weights are (`ecood.encoders.hub.find`).

    The source is a file of `ResNetModel` or `ResNetForImageClassification`, its folder,
    "microsoft/resnet-18" or "microsoft/resnet-50", and `sha256` the file's, if given.
    Images are resized to `size` x `size` pixels. Raises `InputError` for weights that
    cannot be found or read, or are others.
    """
    path = hub.find(source, sha256)
    arrays = {name.removeprefix("resnet."): x for name, x in hub.read(path).items()}
    if any(".layer.2." in name for name in arrays):
        module = ResNet((3, 4, 6, 3), (256, 512, 1024, 2048), bottleneck=True, size=size)
        name = f"resnet-50@{size}"
    else:
        module, name = ResNet(size=size), f"resnet-18@{size}"
    return encoder(module, hub.fit(arrays, module, path, ignore=("classifier.",)), name=name)
