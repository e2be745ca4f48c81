"""What the networks with public weights share: preprocessing, and convolution with batch norm.

Layers are named as in the files that the weights come from, so that loading is renaming.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "conv_norm", "preprocess"]

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def preprocess(images: jax.Array, size: int, mean: np.ndarray, std: np.ndarray) -> jax.Array:
    """Grey to RGB, resized bilinearly (with antialiasing if it shrinks), standardised.

    Args:
      images: uint8 [B, H, W, C], C = 1 or 3.
      size: side of the square that the network sees, in pixels.
      mean: [3], in units of 0 to 255.
      std: [3], likewise.

    Returns:
      float32 [B, size, size, 3].
    """
    batch, _, _, channels = images.shape
    x = images.astype(jnp.float32)
    x = jax.image.resize(x, (batch, size, size, channels), "linear", antialias=True)
    return (jnp.broadcast_to(x, (batch, size, size, 3)) - _last(mean)) / _last(std)


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
    """Batch normalisation by its running statistics, as a scale and a shift.

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
    *,
    conv: str,
    norm: str,
    epsilon: float,
    stride: int = 1,
    padding: str | int = "SAME",
    depthwise: bool = False,
) -> jax.Array:
    """A convolution without bias and the batch norm after it, folded into one.

    To be called where a linen module may make submodules.

    Args:
      x: float32 [B, H, W, C].
      features: channels out; C if depthwise.
      size: side of the kernel.
      conv: name of the convolution.
      norm: name of the batch norm.
      epsilon: of the batch norm.
      stride: of the convolution.
      padding: "SAME" as in TensorFlow, or pixels on every side as in PyTorch.
      depthwise: one filter a channel.

    Returns:
      float32 [B, H', W', features].
    """
    kernel = Kernel((size, size, 1 if depthwise else x.shape[-1], features), name=conv)()
    scale, shift = FrozenBatchNorm(features, epsilon, name=norm)()
    kernel *= scale
    if size == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0] + shift
    x = _pad(x, size, stride, padding)
    if depthwise:
        return depthwise_conv(x, kernel, stride) + shift
    return _conv(x, kernel, stride) + shift


def _pad(x: jax.Array, size: int, stride: int, padding: str | int) -> jax.Array:
    if padding == "SAME":
        sides = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    else:
        sides = [(padding, padding)] * 2
    return jnp.pad(x, ((0, 0), *sides, (0, 0)))


def _conv(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """One filter a channel, without padding.

    XLA has no fast form for it on CPU; there it is the sum of k² shifted, scaled images, which
    is one fused loop. The two forms are equal up to rounding.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, 1, C].
      stride: of both axes.

    Returns:
      [B, H', W', C].
    """

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        k = kernel.shape[0]
        h, w = ((side - k) // stride * stride + 1 for side in x.shape[1:3])
        return sum(
            x[:, i : i + h : stride, j : j + w : stride] * kernel[i : i + 1, j : j + 1]
            for i in range(k)
            for j in range(k)
        )

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _conv(x, kernel, stride, groups=x.shape[-1])

    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)
