"""Glow: a multi-scale flow of act-norm, invertible 1x1 convolution and affine coupling."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy.stats

from ecood.convolution import batch_first, batch_last
from ecood.flows.coupling import AffineCoupling
from ecood.flows.layers import ActNorm, Conv, InvertibleConv, MultiScale, Squeeze

__all__ = ["Glow", "GlowStep"]


class GlowStep(nn.Module):
    """One step of flow: act-norm, invertible 1x1 convolution, affine coupling."""

    width: int
    dtype: Any = jnp.float32

    def setup(self):  # noqa: D102
        self.layers = (
            ActNorm(name="act_norm"),
            InvertibleConv(name="mix"),
            AffineCoupling(self.width, self.dtype, name="coupling"),
        )

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C], C even -> (z, log_det [B])."""
        return _chain([layer.forward_and_log_det for layer in self.layers], x)

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H, W, C], C even -> (x, log_det [B])."""
        return _chain([layer.inverse_and_log_det for layer in reversed(self.layers)], z)

    def forward_step(self, carry: tuple[jax.Array, jax.Array]):
        """The body of the scan over steps: (x [C, H, W, B], log_det) -> ((z, log_det), None)."""
        z, change = self.forward_and_log_det(batch_first(carry[0]))
        return (batch_last(z), carry[1] + change), None

    def map_step(self, carry: tuple[jax.Array, jax.Array]):
        """`forward_step` with the log-det of each position, [B, H, W], in place of their sum."""
        act_norm, mix, coupling = self.layers
        x, scaled = act_norm.forward_and_log_det(batch_first(carry[0]))
        x, mixed = mix.forward_and_log_det(x)
        z, log_scale = coupling.forward_and_log_scale(x)
        everywhere = (scaled + mixed) / math.prod(x.shape[1:3])  # the same at each position
        change = jnp.sum(log_scale, axis=0).transpose(2, 0, 1) + everywhere[:, None, None]
        return (batch_last(z), carry[1] + change), None

    def inverse_step(self, carry: tuple[jax.Array, jax.Array]):
        """The same from latent to data."""
        x, change = self.inverse_and_log_det(batch_first(carry[0]))
        return (batch_last(x), carry[1] + change), None


def _chain(methods: list[Callable], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    log_det = jnp.zeros(x.shape[0], jnp.float32)
    for method in methods:
        x, change = method(x)
        log_det += change
    return x, log_det


class Glow(MultiScale):
    """Glow for images: `levels` times squeeze, `depth` steps, split off half of the channels.

    What is split off has a Gaussian prior whose mean and scale are a convolution of what goes
    on; the last level has a Gaussian prior with learned mean and scale per channel. The latent
    is whitened by them: as of every flow here, its base distribution is a standard normal.

    Attributes:
      image_shape: (H, W, C); H and W divisible by 2**levels.
      depth: K, the steps of a level.
      levels: L.
      width: hidden channels of the couplings' networks.
      dtype: of the couplings' networks: bfloat16 on accelerators, and on CPUs that have units for
        it (docs/speed.md); all else is float32.

    Source: Kingma & Dhariwal 2018, "Glow: Generative Flow with Invertible 1x1 Convolutions".
    """

    image_shape: tuple[int, int, int]
    depth: int = 8
    levels: int = 3
    width: int = 96
    dtype: Any = jnp.float32

    def setup(self):  # noqa: D102
        self.squeeze = Squeeze()
        self.steps = self.stacks(GlowStep, self.width, self.dtype)
        *splits, top = [channels for _, _, channels in self._shapes]
        self.priors = [Conv(c, 3, zero=True, name=f"prior_{i}") for i, c in enumerate(splits)]
        zeros = nn.initializers.zeros
        self.top_mean = self.param("top_mean", zeros, (top,), jnp.float32)
        self.top_log_scale = self.param("top_log_scale", zeros, (top,), jnp.float32)

    @property
    def _shapes(self) -> list[tuple[int, int, int]]:
        """The shapes of the levels' squeezed inputs."""
        h, w, c = self.image_shape
        return [(h >> i, w >> i, c << (i + 1)) for i in range(1, self.levels + 1)]

    @property
    def forward_flops(self) -> int:
        """Of its convolutions for one image; a multiplication and an addition are two."""
        total = 0
        for level, (h, w, c) in enumerate(self._shapes):
            network = 9 * c // 2 * self.width + self.width**2 + 9 * self.width * c
            total += self.depth * h * w * (c**2 + network)
            if level < self.levels - 1:
                total += h * w * 9 * c // 2 * c  # the prior of what is split off
        return 2 * total

    def _prior(self, level: int, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(mean, log-scale) of what a level splits off given what goes on, of all at the last."""
        if level < self.levels - 1:
            mean, log_scale = jnp.split(self.priors[level](kept), 2, axis=-1)
        else:
            mean = jnp.broadcast_to(self.top_mean.reshape(1, 1, 1, -1), kept.shape)
            log_scale = jnp.broadcast_to(self.top_log_scale.reshape(1, 1, 1, -1), kept.shape)
        return mean, log_scale.astype(jnp.float32)

    def _whitened(
        self, level: int, kept: jax.Array, split: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What a level splits off, white, its log-scale, and the log-densities, of each number.

        The scale itself overflows where the log-scale exceeds 88, as it does on some images.
        """
        mean, log_scale = self._prior(level, kept)
        white = (split - mean) * jnp.exp(-log_scale)
        return white, log_scale, jax.scipy.stats.norm.logpdf(white) - log_scale

    def _forward(self, x: jax.Array) -> tuple[list[tuple], list[jax.Array], jax.Array]:
        """x -> ((white latent, log-scale) of the levels, log-densities up to each, log_det)."""
        latents, log_probs, log_det = [], [], jnp.zeros(x.shape[0], jnp.float32)
        log_prior, x = log_det, x - 0.5
        for level in range(self.levels):
            x, _ = self.squeeze.forward_and_log_det(x)
            (x, log_det), _ = self.steps[level].forward_step((batch_last(x), log_det))
            split = x = batch_first(x)
            if level < self.levels - 1:
                x, split = jnp.split(x, 2, axis=-1)
            white, log_scale, terms = self._whitened(level, x, split)
            log_prior += jnp.sum(terms, axis=(1, 2, 3))
            latents.append((white, log_scale))
            log_probs.append(log_prior + log_det)
        return latents, log_probs, log_det

    def log_prob(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float32 [B, H, W, C], dequantised -> log-density in nats [B]."""
        del train  # exact in both modes
        return self._forward(x)[1][-1]

    def log_prob_of_levels(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, C] -> the terms of `log_prob`, one a level, in nats [B, L].

        A level's term is the log-density of what it splits off, at the last level of all that is
        left, and the log-determinant of its steps.
        """
        up_to = jnp.stack(self._forward(x)[1], axis=1)
        return jnp.diff(up_to, axis=1, prepend=0.0)

    def log_prob_map(self, x: jax.Array) -> jax.Array:
        """Dequantised [B, H, W, C] -> nats of each pixel, [B, H, W], which sum to `log_prob`.

        Each term of the log-density belongs to a position: what a coupling stretches, and the
        prior of what a level splits off there. A position of level l, from 0, is a square of
        2^(l + 1) pixels a side, which share its terms equally.
        """
        total, x = 0.0, x - 0.5
        for level in range(self.levels):
            x, _ = self.squeeze.forward_and_log_det(x)
            log_det = jnp.zeros(x.shape[:3], jnp.float32)
            (x, log_det), _ = self.steps[level].map_step((batch_last(x), log_det))
            split = x = batch_first(x)
            if level < self.levels - 1:
                x, split = jnp.split(x, 2, axis=-1)
            terms = log_det + jnp.sum(self._whitened(level, x, split)[2], axis=-1)
            side = 2 ** (level + 1)
            total += jnp.repeat(jnp.repeat(terms, side, axis=1), side, axis=2) / side**2
        return total

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z [B, H * W * C], the levels in turn; log_det [B])."""
        latents, _, log_det = self._forward(x)
        volume = sum(jnp.sum(log_scale, axis=(1, 2, 3)) for _, log_scale in latents)
        z = [z.reshape(z.shape[0], math.prod(z.shape[1:])) for z, _ in latents]
        z = jnp.concatenate(z, axis=1)
        return z, log_det - volume

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H * W * C] -> (x [B, H, W, C], log_det [B])."""
        latents, start = [], 0
        for level, (h, w, c) in enumerate(self._shapes):
            c = c if level == self.levels - 1 else c // 2
            latents.append(z[:, start : start + h * w * c].reshape(z.shape[0], h, w, c))
            start += h * w * c

        def colour(prior: tuple[jax.Array, jax.Array], white: jax.Array) -> tuple[jax.Array, ...]:
            mean, log_scale = prior
            return mean + jnp.exp(log_scale) * white, jnp.sum(log_scale, axis=(1, 2, 3))

        x, log_det = colour(self._prior(self.levels - 1, latents[-1]), latents[-1])
        for level in reversed(range(self.levels)):
            if level < self.levels - 1:
                split, change = colour(self._prior(level, x), latents[level])
                x, log_det = jnp.concatenate([x, split], axis=-1), log_det + change
            (x, log_det), _ = self.steps[level].inverse_step((batch_last(x), log_det))
            x, _ = self.squeeze.inverse_and_log_det(batch_first(x))
        return x + 0.5, log_det

    def sample(self, key: jax.Array, n: int, temperature: float = 1.0) -> jax.Array:
        """Draws n images, float32 [n, H, W, C], all finite.

        The temperature scales the latents' standard deviation. At 1 the images are of the density
        itself, and some are far from [0, 1): where latents are unlike those of images, couplings
        stretch, up to a limit (`AffineCoupling`). A lower temperature keeps images near [0, 1),
        smoother and more alike than the density's.
        """
        z = temperature * jax.random.normal(key, (n, math.prod(self.image_shape)), jnp.float32)
        return self.inverse_and_log_det(z)[0]
