"""Glow as a mixture over classes: its latents have a diagonal Gaussian for each class."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy.stats

from ecood.convolution import batch_first, batch_last
from ecood.flows.glow import GlowStep
from ecood.flows.layers import MultiScale, Squeeze, check_sizes

__all__ = ["ClassGlow"]


APART = 0.1  # standard deviation of the means of classes where training begins


class ClassGlow(MultiScale):
    """Glow's steps; what a level splits off has a mean and scale for each element and class.

    Nothing is conditioned on what goes on, as in `Glow`. All classes are equally likely, and the
    density is that of an image whose class is not known: the mean of the classes' densities. A
    mixture has no standard normal latent, so there is `log_prob` and `sample` alone.

    Attributes:
      image_shape: (H, W, C); H and W divisible by 2**levels.
      depth: K, the steps of a level.
      levels: L.
      width: hidden channels of the couplings' networks.
      classes: of the mixture; 1 makes it one Gaussian.
      dtype: of the couplings' networks, as in `Glow`.

    Source: Kingma & Dhariwal 2018, "Glow", with the base of the package normflows' own examples.
    """

    image_shape: tuple[int, int, int]
    depth: int = 8
    levels: int = 3
    width: int = 96
    classes: int = 10
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_sizes(self, "classes")
        super().__post_init__()

    def setup(self):  # noqa: D102
        self.squeeze = Squeeze()
        self.steps = self.stacks(GlowStep, self.width, self.dtype)
        # Apart from the beginning: without labels equal means would have equal gradients for ever.
        apart, zeros = nn.initializers.normal(APART), nn.initializers.zeros
        shapes = [(self.classes, *shape) for shape in self.latent_shapes]
        self.means = [self.param(f"mean_{i}", apart, s, jnp.float32) for i, s in enumerate(shapes)]
        self.log_scales = [
            self.param(f"log_scale_{i}", zeros, s, jnp.float32) for i, s in enumerate(shapes)
        ]

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """The shapes of what the levels split off, all that is left at the last."""
        (h, w, c), last = self.image_shape, self.levels - 1
        return [(h >> i + 1, w >> i + 1, c << (i + 1) + (i == last)) for i in range(self.levels)]

    def log_prob(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float32 [B, H, W, C], dequantised -> log-density in nats [B]."""
        del train  # exact in both modes
        log_det = jnp.zeros(x.shape[0], jnp.float32)
        given_class, x = jnp.zeros((x.shape[0], self.classes), jnp.float32), x - 0.5
        for level in range(self.levels):
            x, _ = self.squeeze.forward_and_log_det(x)
            (x, log_det), _ = self.steps[level].forward_step((batch_last(x), log_det))
            split = x = batch_first(x)
            if level < self.levels - 1:
                x, split = jnp.split(x, 2, axis=-1)
            mean, scale = self.means[level][None], jnp.exp(self.log_scales[level])[None]
            density = jax.scipy.stats.norm.logpdf(split[:, None], mean, scale)
            given_class += jnp.sum(density, axis=(2, 3, 4))
        return jax.nn.logsumexp(given_class, axis=1) - jnp.log(self.classes) + log_det

    def sample(self, key: jax.Array, n: int, temperature: float = 1.0) -> jax.Array:
        """Draws n images of random classes, float32 [n, H, W, C]; see `Glow.sample`."""
        label_key, *keys = jax.random.split(key, self.levels + 1)
        labels = jax.random.randint(label_key, (n,), 0, self.classes, jnp.int32)
        x = jnp.zeros((n, *self.latent_shapes[-1][:2], 0), jnp.float32)
        for level in reversed(range(self.levels)):
            shape = (n, *self.latent_shapes[level])
            noise = temperature * jax.random.normal(keys[level], shape, jnp.float32)
            mean, log_scale = self.means[level][labels], self.log_scales[level][labels]
            x = jnp.concatenate([x, mean + jnp.exp(log_scale) * noise], axis=-1)
            (x, _), _ = self.steps[level].inverse_step((batch_last(x), jnp.zeros(n, jnp.float32)))
            x, _ = self.squeeze.inverse_and_log_det(batch_first(x))
        return x + 0.5
