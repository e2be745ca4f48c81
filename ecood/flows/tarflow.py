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

UNITS = 12  # of the network within patches, for each pixel
TAIL = -4.0  # of softplus, where training starts: a Gaussian's tails


class TarFlowBlock(nn.Module):
    """z = f((x - shift) exp(log_scale)) for all pixels at once, then the order is reversed.

    f(u) = u / (1 + (t u)^2)^(1/4) draws in what is far out: where z is Gaussian, u has tails like
    exp(-|u| / 2t). So has the next pixel of a natural image, mostly told well and at times not at
    all; in the paper f(u) = u.

    A pixel's shift, log_scale and t depend on the patches before its own, by the transformer, and
    on the pixels before it in its patch, by a masked layer; in the paper, on the former alone, so
    that the pixels of a patch, which are alike more than any others, tell each other nothing. The
    masked layer's tanh bounds them whatever the image, so that nothing overflows.

    The attributes are those of `ecood.flows.patches.PatchFlow`.
    """

    width: int
    layers: int
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def _told(self, x: jax.Array) -> list[jax.Array]:
        """x [B, T, P] -> [log_scale, shift, t], float32 [B, T, P]."""
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
        hidden = Linear(p * UNITS, self.dtype, name="context")(h, (x, seen))
        told = self.param("out", zeros, (p * UNITS, 3 * p), jnp.float32)
        told *= jnp.tile(owner[:, None] <= pixel[None], (1, 3))
        bias = self.param("bias", zeros, (3 * p,), jnp.float32)
        raw = dense(*(a.astype(self.dtype) for a in (jnp.tanh(hidden), told)), bias)
        log_scale, shift, tail = jnp.split(raw, 3, axis=-1)
        return log_scale, shift, nn.softplus(tail + TAIL)

    def forward_step(self, carry: tuple[jax.Array, jax.Array]):
        """The body of the scan: (x [B, T, P], log-det of each pixel) -> ((z, log-dets), None)."""
        x, log_det = carry
        log_scale, shift, tail = self._told(x)
        u = (x - shift) * jnp.exp(log_scale)
        log_det += (log_scale + _log_slope(u, tail)).astype(jnp.float32)
        return (_reversed(_drawn_in(u, tail)), _reversed(log_det)), None

    def inverse_step(self, carry: tuple[jax.Array, jax.Array]):
        """The same from latent to data, by x = u(z) exp(-log_scale(x)) + shift(x), repeatedly.

        Each pass makes at least one more pixel right, in the block's order, since it depends on
        those before it alone: at most as many passes as pixels, and the last one changes nothing.
        """
        z, log_det = _reversed(carry[0]), _reversed(carry[1])
        block, variables = self.unbind()

        def improved(x: jax.Array) -> jax.Array:
            log_scale, shift, tail = block.apply(variables, x, method="_told")
            return jnp.clip(_let_out(z, tail) * jnp.exp(-log_scale) + shift, -LIMIT, LIMIT)

        def unfinished(state: tuple) -> jax.Array:
            i, x, previous = state
            return (i < math.prod(z.shape[1:])) & jnp.any(x != previous)

        start = (0, improved(z), z)
        x = jax.lax.while_loop(unfinished, lambda s: (s[0] + 1, improved(s[1]), s[1]), start)[1]
        log_scale, _, tail = self._told(x)
        change = log_scale + _log_slope(_let_out(z, tail), tail)
        return (x, log_det - change.astype(jnp.float32)), None


def _drawn_in(u: jax.Array, tail: jax.Array) -> jax.Array:
    """f(u)."""
    return u * jax.lax.rsqrt(jnp.sqrt(1 + (tail * u) ** 2))


def _let_out(z: jax.Array, tail: jax.Array) -> jax.Array:
    """The u of a z: z^4 (1 + (t u)^2) = u^4 is a square equation of u^2."""
    w = (tail * z) ** 2
    return z * jnp.sqrt((w + jnp.sqrt(w**2 + 4)) / 2)


def _log_slope(u: jax.Array, tail: jax.Array) -> jax.Array:
    """log f'(u)."""
    w = (tail * u) ** 2
    return jnp.log((1 + w / 2) / (1 + w) * jax.lax.rsqrt(jnp.sqrt(1 + w)))


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
