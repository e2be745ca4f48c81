"""TarFlow, a transformer flow: autoregressive blocks over patches, in alternating order."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.dense import dense
from ecood.flows.layers import LIMIT, Linear
from ecood.flows.patches import PatchFlow
from ecood.flows.transformer import Transformer

__all__ = ["TarFlow", "TarFlowBlock"]

UNITS = 16  # of the network within patches, for each pixel


class TarFlowBlock(nn.Module):
    """z = (x - shift) exp(log_scale) for all pixels at once, then the order is reversed.

    A pixel's shift and log_scale depend on the patches before its own, by the transformer, and on
    the pixels before it in its patch, by a masked layer; in the paper, on the former alone, so
    that the pixels of a patch, which are alike more than any others, tell each other nothing. The
    masked layer's tanh bounds them whatever the image, so that nothing overflows.

    The attributes are those of `ecood.flows.patches.PatchFlow`.
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
        sizes = (self.width, self.layers, self.heads, self.dtype)
        h = Transformer(*sizes, causal=True, name="transformer")(h)

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


class TarFlow(PatchFlow):
    """TarFlow for images: autoregressive blocks over patches of pixels, in alternating order.

    The density is exact and takes one pass over all patches at once. Its inverse takes as many
    passes as the image has pixels at most, in practice a fraction: sampling is slow.
    The paper's pixels have Gaussian noise; ours are dequantised as everywhere in ecood.

    The attributes are those of `ecood.flows.patches.PatchFlow`; half the patch makes four times as
    many, so more context from the transformer, at more than four times the cost.

    Source: Zhai et al. 2024, "Normalizing Flows are Capable Generative Models"; the layer within
    patches: Germain et al. 2015, "MADE: Masked Autoencoder for Distribution Estimation".
    """

    block = TarFlowBlock

    def after_blocks(self, x: jax.Array) -> jax.Array:
        """Reversed by an odd number of blocks."""
        return _reversed(x) if self.depth % 2 else x

    before_blocks = after_blocks
