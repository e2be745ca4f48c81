"""Glow: a multi-scale flow of act-norm, invertible 1x1 convolution and affine coupling."""

import math
from typing import Any

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.flows.coupling import AffineCoupling
from ecood.flows.layers import ActNorm, Conv, InvertibleConv, Squeeze, check_sizes
from ecood.flows.three_layers import batch_first, batch_last

__all__ = ["Glow", "GlowStep"]


class GlowStep(nn.Module):
    """One step of flow: act-norm, invertible 1x1 convolution, affine coupling."""

    width: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the layers."""
        self.layers = (
            ActNorm(name="act_norm"),
            InvertibleConv(name="mix"),
            AffineCoupling(self.width, self.dtype, name="coupling"),
        )

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C], C even -> (z, log_det [B])."""
        log_det = jnp.zeros(x.shape[0], jnp.float32)
        for layer in self.layers:
            x, change = layer.forward_and_log_det(x)
            log_det += change
        return x, log_det

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H, W, C], C even -> (x, log_det [B])."""
        log_det = jnp.zeros(z.shape[0], jnp.float32)
        for layer in reversed(self.layers):
            z, change = layer.inverse_and_log_det(z)
            log_det += change
        return z, log_det

    def forward_step(self, carry: tuple[jax.Array, jax.Array]):
        """The body of the scan over steps: (x [C, H, W, B], log_det) -> ((z, log_det), None)."""
        z, change = self.forward_and_log_det(batch_first(carry[0]))
        return (batch_last(z), carry[1] + change), None

    def inverse_step(self, carry: tuple[jax.Array, jax.Array]):
        """The same from latent to data."""
        x, change = self.inverse_and_log_det(batch_first(carry[0]))
        return (batch_last(x), carry[1] + change), None


def _steps(depth: int, width: int, dtype: Any, name: str) -> nn.Module:
    """`depth` steps with stacked parameters, compiled once whatever the depth."""
    scan = {
        "variable_axes": {"params": 0, "fixed": 0},
        "split_rngs": {"params": True},
        "length": depth,
    }
    methods = {"forward_step": scan, "inverse_step": scan | {"reverse": True}}
    return nn.scan(GlowStep, methods=methods)(width, dtype, name=name)


class Glow(nn.Module):
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

    def __post_init__(self) -> None:
        """Refuses sizes that make no flow."""
        check_sizes(self.image_shape, self.levels, depth=self.depth, width=self.width)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the layers."""
        last = self.levels - 1
        self.squeeze = Squeeze()
        self.steps = [
            _steps(self.depth, self.width, self.dtype, f"level_{i}") for i in range(self.levels)
        ]
        self.priors = [
            Conv(self._shapes[i][-1], 3, zero=True, name=f"prior_{i}") for i in range(last)
        ]
        channels = self._shapes[last][-1]
        self.top_mean = self.param("top_mean", nn.initializers.zeros, (channels,), jnp.float32)
        self.top_log_scale = self.param(
            "top_log_scale", nn.initializers.zeros, (channels,), jnp.float32
        )

    @property
    def _shapes(self) -> list[tuple[int, int, int]]:
        """The shapes of the levels' squeezed inputs."""
        h, w, c = self.image_shape
        return [(h >> i, w >> i, c << (i + 1)) for i in range(1, self.levels + 1)]

    def _split_prior(self, level: int, kept: jax.Array) -> distrax.Distribution:
        mean, log_scale = jnp.split(self.priors[level](kept), 2, axis=-1)
        return distrax.Independent(distrax.Normal(mean, jnp.exp(log_scale)), 3)

    def _top_prior(self, n: int) -> distrax.Distribution:
        shape = (n, *self._shapes[-1])
        mean = jnp.broadcast_to(self.top_mean.reshape(1, 1, 1, -1), shape)
        log_scale = jnp.broadcast_to(self.top_log_scale.reshape(1, 1, 1, -1), shape)
        return distrax.Independent(distrax.Normal(mean, jnp.exp(log_scale)), 3)

    def _forward(self, x: jax.Array) -> tuple[list[tuple], jax.Array, jax.Array]:
        """x [B, H, W, C] -> ((prior, latent) of the levels, their log-density, log_det [B])."""
        latents = []
        log_det = jnp.zeros(x.shape[0], jnp.float32)
        log_prior = jnp.zeros(x.shape[0], jnp.float32)
        x = x - 0.5
        for level in range(self.levels):
            x, _ = self.squeeze.forward_and_log_det(x)
            (x, log_det), _ = self.steps[level].forward_step((batch_last(x), log_det))
            x = batch_first(x)
            prior, split = self._top_prior(x.shape[0]), x
            if level < self.levels - 1:
                x, split = jnp.split(x, 2, axis=-1)
                prior = self._split_prior(level, x)
            log_prior += prior.log_prob(split)
            latents.append((prior.distribution, split))
        return latents, log_prior, log_det

    def __call__(self, x: jax.Array) -> jax.Array:
        """`log_prob`; `init` through it initialises from the batch it is given."""
        return self.log_prob(x)

    def log_prob(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float32 [B, H, W, C], dequantised -> log-density in nats [B]."""
        del train  # exact in both modes
        _, log_prior, log_det = self._forward(x)
        return log_prior + log_det

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z [B, H * W * C], the levels in turn; log_det [B])."""
        latents, _, log_det = self._forward(x)
        whitened = [(latent - prior.loc) / prior.scale for prior, latent in latents]
        volume = sum(jnp.sum(jnp.log(prior.scale), axis=(1, 2, 3)) for prior, _ in latents)
        z = jnp.concatenate([z.reshape(z.shape[0], -1) for z in whitened], axis=1)
        return z, log_det - volume.astype(jnp.float32)

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H * W * C] -> (x [B, H, W, C], log_det [B])."""
        latents, start = [], 0
        for level, (h, w, c) in enumerate(self._shapes):
            c = c if level == self.levels - 1 else c // 2
            latents.append(z[:, start : start + h * w * c].reshape(-1, h, w, c))
            start += h * w * c

        def colour(prior: distrax.Distribution, white: jax.Array) -> tuple[jax.Array, jax.Array]:
            scale = prior.distribution.scale
            volume = jnp.sum(jnp.log(scale), axis=(1, 2, 3))
            return prior.distribution.loc + scale * white, volume.astype(jnp.float32)

        x, log_det = colour(self._top_prior(z.shape[0]), latents[-1])
        for level in reversed(range(self.levels)):
            if level < self.levels - 1:
                split, change = colour(self._split_prior(level, x), latents[level])
                x, log_det = jnp.concatenate([x, split], axis=-1), log_det + change
            (x, log_det), _ = self.steps[level].inverse_step((batch_last(x), log_det))
            x, _ = self.squeeze.inverse_and_log_det(batch_first(x))
        return x + 0.5, log_det

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """Draws n images, float32 [n, H, W, C], near [0, 1)."""
        return self.inverse_and_log_det(jax.random.normal(key, (n, self.dimensions)))[0]

    @property
    def dimensions(self) -> int:
        """D, the number of pixels times channels."""
        return math.prod(self.image_shape)
