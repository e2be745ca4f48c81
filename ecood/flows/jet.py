"""Jet, a transformer flow: affine couplings between the halves of all patches."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood.errors import InputError
from ecood.flows.layers import LIMIT, Linear
from ecood.flows.patches import PatchFlow
from ecood.flows.transformer import Transformer
from ecood.words import number_of

__all__ = ["Jet", "JetBlock", "JetNetwork"]


class JetNetwork(nn.Module):
    """What a coupling does to one half of all patches, told by the other half of all of them.

    Its scale is 2 sigmoid(raw), as in the paper: less than 2, however strange the image.
    """

    width: int
    layers: int
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, given: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T, P / 2] -> (log_scale, shift), float32 [B, T, P / 2]; zeros at the start."""
        _, t, half = given.shape
        h = Linear(self.width, self.dtype, name="embed")(given)
        starts = nn.initializers.normal(0.1)
        h += self.param("positions", starts, (t, self.width), jnp.float32)[None]
        sizes = (self.width, self.layers, self.heads, self.dtype)
        h = Transformer(*sizes, causal=False, name="transformer")(h)
        told = Linear(2 * half, self.dtype, zero=True, name="out")(h)
        raw, shift = jnp.split(told.astype(jnp.float32), 2, axis=-1)
        return jnp.log(2.0) + nn.log_sigmoid(raw), shift


class JetBlock(nn.Module):
    """Two affine couplings: every other value of each patch given the rest, then the rest.

    Then the patches' values are put into another order, the halves one after the other, so that the
    next block divides them otherwise.

    The attributes are those of `ecood.flows.patches.PatchFlow`.
    """

    width: int
    layers: int
    heads: int
    dtype: Any = jnp.float32

    def setup(self):  # noqa: D102
        sizes = (self.width, self.layers, self.heads, self.dtype)
        self.of_odd, self.of_even = JetNetwork(*sizes), JetNetwork(*sizes)

    def forward_step(self, carry: tuple[jax.Array, jax.Array]):
        """The body of the scan: (x [B, T, P], log-det of each value) -> ((z, log-dets), None)."""
        (even, odd), (even_det, odd_det) = map(_halves, carry)
        log_scale, shift = self.of_odd(even)
        odd, odd_det = (odd + shift) * jnp.exp(log_scale), odd_det + log_scale
        log_scale, shift = self.of_even(odd)
        even, even_det = (even + shift) * jnp.exp(log_scale), even_det + log_scale
        joined = ((odd, even), (odd_det, even_det))
        return tuple(jnp.concatenate(halves, axis=-1) for halves in joined), None

    def inverse_step(self, carry: tuple[jax.Array, jax.Array]):
        """The same from latent to data."""
        (odd, even), (odd_det, even_det) = (jnp.split(each, 2, axis=-1) for each in carry)
        log_scale, shift = self.of_even(odd)
        even, even_det = _limited(even * jnp.exp(-log_scale) - shift), even_det - log_scale
        log_scale, shift = self.of_odd(even)
        odd, odd_det = _limited(odd * jnp.exp(-log_scale) - shift), odd_det - log_scale
        return (_joined(even, odd), _joined(even_det, odd_det)), None


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, T, P] -> the values at even places and those at odd ones, [B, T, P / 2] each."""
    pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    return pairs[..., 0], pairs[..., 1]


def _joined(even: jax.Array, odd: jax.Array) -> jax.Array:
    """The inverse of `_halves`."""
    return jnp.stack([even, odd], axis=-1).reshape(*even.shape[:-1], 2 * even.shape[-1])


def _limited(x: jax.Array) -> jax.Array:
    return jnp.clip(x, -LIMIT, LIMIT)


class Jet(PatchFlow):
    """Jet for images: affine couplings between halves of the patches, by transformers.

    The density and its inverse are exact and take one pass each. `depth` blocks have two couplings
    each. The paper divides patches by random permutations; ours are divided at every other value,
    so that a pixel is told by its neighbours first, and by a fixed order after that.

    The attributes are those of `ecood.flows.patches.PatchFlow`; `patch`, or C, must be even.

    Source: Kolesnikov et al. 2024, "Jet: A Modern Transformer-Based Normalizing Flow".
    """

    block = JetBlock

    def __post_init__(self) -> None:
        if self.patch % 2 and self.image_shape[-1] % 2:
            raise InputError(
                f"patches of {self.patch} x {self.patch} pixels with "
                f"{number_of(self.image_shape[-1], 'channel')} have no two halves; choose an even "
                "patch."
            )
        super().__post_init__()

    @property
    def order(self) -> np.ndarray:
        """For each place within a patch after the blocks, whose value is there, int [P]."""
        places = np.arange(self.patch**2 * self.image_shape[-1])
        for _ in range(self.depth):
            places = np.concatenate([places[1::2], places[::2]])
        return places

    def after_blocks(self, x: jax.Array) -> jax.Array:
        """[B, T, P] with the values of a patch in their own order again."""
        return x[..., np.argsort(self.order)]

    def before_blocks(self, x: jax.Array) -> jax.Array:
        """[B, T, P] with the values of a patch in the order that the blocks leave them in."""
        return x[..., self.order]
