"""A flow whose every statistic is known in closed form, a Glow that compiles in no time, images."""

import jax
import jax.numpy as jnp
import numpy as np

from ecood import splits
from ecood.flows import Flow
from ecood.statistics import dequantised
from tests import small

SHAPE = (8, 8, 1)
D = 64


def images(n: int, seed: int = 0) -> np.ndarray:
    """Smooth random images, uint8 [n, 8, 8, 1]."""
    return small.images(n, seed, SHAPE)


def split(n: int, seed: int = 0) -> splits.Split:
    """`images` in parts, a twentieth held out."""
    return small.split(n, seed, shape=SHAPE)


def hard_images() -> np.ndarray:
    """Black, white, a checkerboard, noise."""
    board = 255 * (np.indices(SHAPE).sum(axis=0) % 2)
    noise = np.random.default_rng(1).integers(0, 256, SHAPE)
    return np.stack([np.zeros(SHAPE), np.full(SHAPE, 255), board, noise]).astype(np.uint8)


def glow(seed: int = 0) -> Flow:
    """A Glow of one step, whose coupling is not the identity."""
    return small.flow(seed, SHAPE, depth=1, width=4)


def gaussian(scale: np.ndarray | float = 0.3, mean: float = 0.45) -> Flow:
    """Independent Gaussian pixels: z = (x - mean) / scale, scale a number or [64]."""
    variables = {
        "mean": jnp.full(D, mean, jnp.float32),
        "scale": jnp.broadcast_to(jnp.float32(scale), (D,)),
    }
    return Flow(log_prob, variables, forward_and_log_det)


def forward_and_log_det(variables, key, x):
    """The latent of `gaussian`."""
    del key
    z = (x.reshape(x.shape[0], -1) - variables["mean"][None]) / variables["scale"][None]
    return z, jnp.full(x.shape[0], -jnp.sum(jnp.log(variables["scale"])))


def log_prob(variables, key, x):
    """The density of `gaussian`."""
    z, log_det = forward_and_log_det(variables, key, x)
    return log_det - 0.5 * jnp.sum(z**2, axis=1) - 0.5 * D * jnp.log(2 * jnp.pi)


def known_statistics(key: jax.Array, images: np.ndarray, scale=0.3, mean=0.45) -> np.ndarray:
    """[N, 3] of `gaussian`, by numpy in float64: -log p(x), -log p(z), log|det| in bits/dim."""
    x = np.asarray(dequantised(key, jnp.asarray(images)), np.float64).reshape(len(images), -1)
    scale = np.broadcast_to(scale, D)
    log_z = np.sum(-0.5 * ((x - mean) / scale) ** 2 - 0.5 * np.log(2 * np.pi), axis=1)
    log_det = np.full(len(x), -np.sum(np.log(scale)))
    nats = D * np.log(2)
    cost = np.stack([8 - (log_z + log_det) / nats, -log_z / nats, log_det / nats], axis=1)
    return np.where(cost > 8, 8 + np.log1p(np.maximum(cost - 8, 0)), cost)  # the guard


def curved(scale: np.ndarray | float = 0.3, mean: float = 0.45) -> Flow:
    """z = u + u³ / 10, u the latent of `gaussian`: as quick, and its Jacobian varies."""
    return Flow(_curved_log_prob, gaussian(scale, mean).variables, _curve)


def _curve(variables, key, x):
    u, log_det = forward_and_log_det(variables, key, x)
    return u + 0.1 * u**3, log_det + jnp.sum(jnp.log1p(0.3 * u**2), axis=1)


def _curved_log_prob(variables, key, x):
    z, log_det = _curve(variables, key, x)
    return log_det - 0.5 * jnp.sum(z**2, axis=1) - 0.5 * D * jnp.log(2 * jnp.pi)
