"""TarFlow, a transformer flow: autoregressive blocks over patches, in alternating order."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.dense import dense
from ecood.errors import InputError
from ecood.flows.base import normal
from ecood.flows.layers import ActNorm, Linear, scan_steps
from ecood.flows.logit import Logit

__all__ = ["TarFlow", "TarFlowBlock", "Transformer"]

UNITS = 16  # of the network within patches, for each pixel
LIMIT = 1e4  # of values on the way to the inverse, which an act-norm has given unit variance


class Transformer(nn.Module):
    """Causal self-attention and a two-layer network, `layers` times, each after a normalisation.

    The normalisations have no parameters: those of the product that follows take their place.
    """

    width: int
    layers: int
    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """[B, T, width] -> the same, normalised; position t knows positions up to t."""
        b, t, _ = h.shape
        for _ in range(self.layers):
            projected = Linear(3 * self.width, self.dtype)(_normalised(h)).astype(self.dtype)
            query, key, value = jnp.split(projected.reshape(b, t, 3 * self.heads, -1), 3, axis=2)
            mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
            h += Linear(self.width, self.dtype)(mixed.reshape(b, t, -1))
            inner = Linear(4 * self.width, self.dtype)(_normalised(h)).astype(self.dtype)
            h += Linear(self.width, self.dtype)(nn.gelu(inner))
        return _normalised(h)


def _normalised(h: jax.Array) -> jax.Array:
    """Zero mean and unit variance along the last axis."""
    h -= jnp.mean(h, axis=-1, keepdims=True)
    return h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)


class TarFlowBlock(nn.Module):
    """z = (x - shift) exp(log_scale) for all pixels at once, then the order is reversed.

    A pixel's shift and log_scale depend on the patches before its own, by the transformer, and on
    the pixels before it in its patch, by a masked layer; in the paper, on the former alone, so
    that the pixels of a patch, which are alike more than any others, tell each other nothing. The
    masked layer's tanh bounds them whatever the image, so that nothing overflows.

    The attributes are those of `TarFlow`.
    """

    width: int
    layers: int
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def _scale_and_shift(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, T, P] -> (log_scale, shift), float32 [B, T, P]."""
        _, t, p = x.shape
        starts, zeros = nn.initializers.normal, nn.initializers.zeros
        h = Linear(self.width, self.dtype, name="embed")(x)
        h = jnp.pad(h[:, :-1], ((0, 0), (1, 0), (0, 0)))  # a patch does not know itself
        h += self.param("positions", starts(0.1), (t, self.width), jnp.float32)[None]
        h = Transformer(self.width, self.layers, self.heads, self.dtype, name="transformer")(h)

        owner = jnp.repeat(jnp.arange(p), UNITS)  # the pixel that a hidden unit works for
        pixel = jnp.arange(p)
        seen = self.param("within", starts(p**-0.5), (p, p * UNITS), jnp.float32)
        seen *= pixel[:, None] < owner[None]
        hidden = Linear(p * UNITS, self.dtype, name="context")(h)
        hidden += dense(*(a.astype(self.dtype) for a in (x, seen)), jnp.zeros(p * UNITS))
        told = self.param("out", zeros, (p * UNITS, 2 * p), jnp.float32)
        told *= jnp.tile(owner[:, None] <= pixel[None], (1, 2))
        bias = self.param("bias", zeros, (2 * p,), jnp.float32)
        raw = dense(*(a.astype(self.dtype) for a in (jnp.tanh(hidden), told)), bias)
        log_scale, shift = jnp.split(raw, 2, axis=-1)
        return log_scale, shift

    def forward_step(self, carry: tuple[jax.Array, jax.Array]):
        """The body of the scan: (x [B, T, P], log-det of each pixel) -> ((z, log-dets), None)."""
        x, log_det = carry
        log_scale, shift = self._scale_and_shift(x)
        z = (x - shift) * jnp.exp(log_scale)
        log_det += log_scale.astype(jnp.float32)
        return (_reversed(z), _reversed(log_det)), None

    def inverse_step(self, carry: tuple[jax.Array, jax.Array]):
        """The same from latent to data, by x = z exp(-log_scale(x)) + shift(x), again and again.

        Each pass makes at least one more pixel right, in the block's order, since it depends on
        those before it alone: at most as many passes as pixels, and the last one changes nothing.
        """
        z, log_det = _reversed(carry[0]), _reversed(carry[1])
        block, variables = self.unbind()

        def improved(x: jax.Array) -> jax.Array:
            log_scale, shift = block.apply(variables, x, method="_scale_and_shift")
            return jnp.clip(z * jnp.exp(-log_scale) + shift, -LIMIT, LIMIT)

        def unfinished(state: tuple) -> jax.Array:
            i, x, previous = state
            return (i < math.prod(z.shape[1:])) & jnp.any(x != previous)

        start = (0, improved(z), z)
        x = jax.lax.while_loop(unfinished, lambda s: (s[0] + 1, improved(s[1]), s[1]), start)[1]
        return (x, log_det - self._scale_and_shift(x)[0].astype(jnp.float32)), None


def _reversed(x: jax.Array) -> jax.Array:
    return x[:, ::-1, ::-1]


class TarFlow(nn.Module):
    """TarFlow for images: a logit, an act-norm, and `depth` blocks over patches of pixels.

    The density is exact and takes one pass over all patches at once. Its inverse takes as many
    passes as the image has pixels at most, in practice a fraction: sampling is slow.
    The paper's pixels have Gaussian noise; ours are dequantised as everywhere in ecood, and pass
    the logit of `ResidualFlow`, which spreads out the many that are black or white: without it,
    training spends most of its time on them.

    Attributes:
      image_shape: (H, W, C); H and W divisible by `patch`.
      depth: blocks.
      layers: of each block's transformer.
      width: its channels, a multiple of `heads`.
      heads: of its attention.
      patch: side of a patch in pixels; half of it makes four times as many, so more context from
        the transformer, at more than four times the cost.
      margin: of the logit.
      dtype: of the products; parameters, scales and log-determinants are float32.

    Source: Zhai et al. 2024, "Normalizing Flows are Capable Generative Models"; the layer within
    patches: Germain et al. 2015, "MADE: Masked Autoencoder for Distribution Estimation".
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
        for name in ("depth", "layers", "width", "heads", "patch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 1 or more.")
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
        block = nn.remat(TarFlowBlock, methods=["forward_step"])  # else scan stores, slowly
        attributes = (self.width, self.layers, self.heads, self.dtype)
        self.blocks = scan_steps(block, self.depth)(*attributes, name="blocks")

    @property
    def stacked(self) -> tuple[str, ...]:
        """Names of the parameters that hold one block after the other."""
        return ("blocks",)

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
        prior = normal(jnp.zeros(()), jnp.ones(()), 0)
        return jnp.sum(prior.log_prob(z).astype(jnp.float32) + log_det, axis=-1)

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z [B, H * W * C], log_det [B])."""
        z, log_det = self._forward(x)
        return z.reshape(len(z), -1), jnp.sum(log_det, axis=(1, 2, 3))

    def _forward(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z, the log-det of each pixel and channel), both of its shape."""
        x, log_slope = self.logit.forward_and_log_slope(x)
        x, change = self.act_norm.forward_and_log_det(self._patches(x))
        log_det = jnp.zeros(x.shape, jnp.float32) + change[:, None, None] / math.prod(x.shape[1:])
        (z, log_det), _ = self.blocks.forward_step((x, log_det))
        if self.depth % 2:
            z, log_det = _reversed(z), _reversed(log_det)
        return self._image(z), log_slope.astype(jnp.float32) + self._image(log_det)

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H * W * C] -> (x [B, H, W, C], log_det [B])."""
        z = self._patches(z.reshape(-1, *self.image_shape))
        z = _reversed(z) if self.depth % 2 else z
        (x, log_det), _ = self.blocks.inverse_step((z, jnp.zeros(z.shape, jnp.float32)))
        x, change = self.act_norm.inverse_and_log_det(x)
        x, last = self.logit.inverse_and_log_det(self._image(x))
        return x, jnp.sum(log_det, axis=(1, 2)) + change + last

    def sample(self, key: jax.Array, n: int, temperature: float = 1.0) -> jax.Array:
        """Draws n images, float32 [n, H, W, C]; see `Glow.sample`."""
        z = temperature * jax.random.normal(key, (n, math.prod(self.image_shape)))
        return self.inverse_and_log_det(z)[0]

    def _patches(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, patches, pixels and channels of one]."""
        (h, w, c), side = self.image_shape, self.patch
        x = x.reshape(-1, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(len(x), h * w // side**2, side**2 * c)

    def _image(self, x: jax.Array) -> jax.Array:
        """The inverse of `_patches`."""
        (h, w, c), side = self.image_shape, self.patch
        x = x.reshape(-1, h // side, w // side, side, side, c).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(len(x), h, w, c)
