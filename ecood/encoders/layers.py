"""Preprocessing, and convolution with batch norm, of the networks with public weights.

Layers are named as in the weights' own files, so that loading is renaming.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood.convolution import depthwise_conv

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "conv_norm", "preprocess", "strided_conv"]

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def preprocess(images: jax.Array, size: int, mean: np.ndarray, std: np.ndarray) -> jax.Array:
    """Grey to RGB, resized bilinearly (with antialiasing if it shrinks), standardised.

    uint8 [B, H, W, 1 or 3] -> float32 [B, size, size, 3]; mean and std, [3], in 0 to
    255.
    """
    batch, _, _, channels = images.shape
    x = images.astype(jnp.float32)
    x = jax.image.resize(x, (batch, size, size, channels), "linear", antialias=True)
    return (jnp.broadcast_to(x, (batch, size, size, 3)) - _last(mean)) / _last(std)


def strided_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """[B, H, W, C] and [k, k, C, C_out] -> [B, H', W', C_out], without padding."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=layout
    )


def _last(x: jax.Array | np.ndarray) -> jax.Array:
    """[C] -> [1, 1, 1, C]."""
    return x.reshape(1, 1, 1, -1)


class Kernel(nn.Module):
    """The weight of a convolution, [k, k, C_in, C_out]."""

    shape: tuple[int, int, int, int]

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("kernel", nn.initializers.he_normal(), self.shape, jnp.float32)


class FrozenBatchNorm(nn.Module):
    """Batch norm by running statistics: scale and shift, [1, 1, 1, features].

    Source: Ioffe & Szegedy 2015, "Batch normalization".
    """

    features: int
    epsilon: float

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        shape = (self.features,)
        weight = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.param("running_mean", nn.initializers.zeros, shape, jnp.float32)
        variance = self.param("running_var", nn.initializers.ones, shape, jnp.float32)
        scale = weight * jax.lax.rsqrt(variance + self.epsilon)
        return _last(scale), _last(bias - mean * scale)


def conv_norm(
    x: jax.Array,
    features: int,
    size: int,
    conv: str,
    norm: str,
    *,
    epsilon: float,
    stride: int = 1,
    padding: str | int = "SAME",
    depthwise: bool = False,
) -> jax.Array:
    """A convolution without bias and the batch norm after it, folded into one.

    float32 [B, H, W, C] -> [B, H', W', features], within a linen module: `conv` and
    `norm` name its submodules. `padding` is "SAME" as in TensorFlow, or pixels on every
    side as in PyTorch; `depthwise` is one filter a channel, features = C.
    """
    kernel = Kernel((size, size, 1 if depthwise else x.shape[-1], features), name=conv)()
    scale, shift = FrozenBatchNorm(features, epsilon, name=norm)()
    kernel *= scale
    if size == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0] + shift
    if padding == "SAME":
        sides = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    else:
        sides = [(padding, padding)] * 2
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    if depthwise:
        return depthwise_conv(x, kernel, stride) + shift
    return strided_conv(x, kernel, stride) + shift
