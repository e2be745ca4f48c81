"""What transformer flows share: images as sequences of patches, a logit, an act-norm, blocks."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy.stats
from flax import traverse_util

from ecood.errors import InputError
from ecood.flows.layers import ActNorm, check_sizes, scan_steps
from ecood.flows.logit import Logit

__all__ = ["PatchFlow"]


class PatchFlow(nn.Module):
    """A logit, an act-norm, and `depth` blocks over the patches of an image.

    A flow of this kind names the class of its blocks, `block`, with the attributes `width`,
    `layers`, `heads` and `dtype`. Their `forward_step` and `inverse_step` take and give the pixels
    and channels of T patches, [B, T, P], and the log-det of each, of the same shape, and may leave
    them in another order: `after_blocks` undoes it and `before_blocks` makes it.

    The logit spreads out the pixels that are black or white: without it, training spends most of
    its time on them.

    Attributes:
      image_shape: (H, W, C); H and W divisible by `patch`.
      depth: blocks.
      layers: of each transformer.
      width: its channels, a multiple of `heads`.
      heads: of its attention.
      patch: side of a patch in pixels.
      margin: of the logit.
      dtype: of the products; parameters, scales and log-determinants are float32.
    """

    image_shape: tuple[int, int, int]
    depth: int = 4
    layers: int = 1
    width: int = 96
    heads: int = 2
    patch: int = 4
    margin: float = 1e-4
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_sizes(self, "depth", "layers", "width", "heads", "patch")
        height, width, _ = self.image_shape
        if height % self.patch or width % self.patch:
            raise InputError(
                f"patches of {self.patch} x {self.patch} pixels do not fill images of {height} x "
                f"{width}; choose a patch that divides both sides, or resize the images."
            )
        if self.width % self.heads:
            raise InputError(
                f"width is {self.width} and heads is {self.heads}; expected a multiple of heads."
            )
        super().__post_init__()

    def setup(self):  # noqa: D102
        self.logit = Logit(self.margin)
        self.act_norm = ActNorm()
        block = nn.remat(self.block, methods=["forward_step"])  # else scan stores, slowly
        attributes = (self.width, self.layers, self.heads, self.dtype)
        self.blocks = scan_steps(block, self.depth)(*attributes, name="blocks")

    @property
    def stacked(self) -> tuple[str, ...]:
        """Names of the parameters that hold one block after the other."""
        return ("blocks",)

    @nn.nowrap
    def matrices(self, params: Any) -> Any:
        """A tree of bools, which parameters Muon trains: all kernels but that of the last layer."""
        paths = traverse_util.flatten_dict(params)
        hidden = {path: path[-1] == "kernel" and "out" not in path for path in paths}
        return traverse_util.unflatten_dict(hidden)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`log_prob`; `init` through it initialises from the batch it is given."""
        return self.log_prob(x)

    def log_prob(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float32 [B, H, W, C], dequantised -> log-density in nats [B]."""
        del train  # exact in both modes
        return jnp.sum(self.log_prob_map(x), axis=(1, 2))

    def log_prob_map(self, x: jax.Array) -> jax.Array:
        """Dequantised [B, H, W, C] -> nats of each pixel, [B, H, W], which sum to `log_prob`.

        Every layer works on pixels one by one, given others: a pixel has its own terms.
        """
        z, log_det = self._forward(x)
        return jnp.sum(jax.scipy.stats.norm.logpdf(z) + log_det, axis=-1)

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z [B, H * W * C], log_det [B])."""
        z, log_det = self._forward(x)
        return z.reshape(z.shape[0], math.prod(self.image_shape)), jnp.sum(log_det, axis=(1, 2, 3))

    def _forward(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z, the log-det of each pixel and channel), both of its shape."""
        x, log_slope = self.logit.forward_and_log_slope(x)
        x, change = self.act_norm.forward_and_log_det(self._patches(x))
        log_det = jnp.zeros(x.shape, jnp.float32) + change[:, None, None] / math.prod(x.shape[1:])
        (z, log_det), _ = self.blocks.forward_step((x, log_det))
        z, log_det = self.after_blocks(z), self.after_blocks(log_det)
        return self._image(z), log_slope.astype(jnp.float32) + self._image(log_det)

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H * W * C] -> (x [B, H, W, C], log_det [B])."""
        z = self.before_blocks(self._patches(z.reshape(z.shape[0], *self.image_shape)))
        (x, log_det), _ = self.blocks.inverse_step((z, jnp.zeros(z.shape, jnp.float32)))
        x, change = self.act_norm.inverse_and_log_det(x)
        x, last = self.logit.inverse_and_log_det(self._image(x))
        return x, jnp.sum(log_det, axis=(1, 2)) + change + last

    def sample(self, key: jax.Array, n: int, temperature: float = 1.0) -> jax.Array:
        """Draws n images, float32 [n, H, W, C]; see `Glow.sample`."""
        z = temperature * jax.random.normal(key, (n, math.prod(self.image_shape)), jnp.float32)
        return self.inverse_and_log_det(z)[0]

    def _patches(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, patches, pixels and channels of one]."""
        (h, w, c), side = self.image_shape, self.patch
        x = x.reshape(x.shape[0], h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(x.shape[0], h * w // side**2, side**2 * c)

    def _image(self, x: jax.Array) -> jax.Array:
        """The inverse of `_patches`."""
        (h, w, c), side = self.image_shape, self.patch
        x = x.reshape(x.shape[0], h // side, w // side, side, side, c).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(x.shape[0], h, w, c)
