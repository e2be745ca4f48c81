"""A small flow, encoder and images that tests share; deterministic, made in seconds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecood import encoders, flows
from ecood.images import dequantise

SHAPE = (8, 8, 3)


def images(n: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Smooth random images: a coarse pattern, enlarged, plus a little texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (n, shape[0] // 4, shape[1] // 4, shape[2]))
    return (coarse.repeat(4, 1).repeat(4, 2) + rng.integers(0, 56, (n, *shape))).astype(np.uint8)


@functools.cache
def flow(seed: int = 0) -> flows.Flow:
    """A Glow whose couplings are not the identity."""
    module = flows.Glow(SHAPE, depth=2, levels=1, width=8)
    key = jax.random.key(seed)
    x = jax.vmap(dequantise)(jax.random.split(key, 64), images(64, seed))
    variables = jax.jit(module.init)(key, x)
    return flows.bind(module, {**variables, "params": moved(variables["params"], 0.03, seed)})


@functools.cache
def gaussian() -> flows.Flow:
    """A density that compiles in no time: each pixel is Gaussian about a part of its neighbour."""

    def log_prob(variables, key, x):
        del key
        z = (x[:, :, 1:] - 0.5 * x[:, :, :-1] - variables["mean"]) / variables["scale"]
        return -jnp.sum(0.5 * z**2 + jnp.log(variables["scale"]), axis=(1, 2, 3))

    return flows.Flow(log_prob, {"mean": jnp.float32(0.2), "scale": jnp.float32(0.1)})


def moved(params: Any, scale: float, seed: int = 0) -> Any:
    """Parameters with Gaussian noise added; by numpy, as JAX would compile it for each shape."""
    rng = np.random.default_rng(seed)

    def move(leaf: jax.Array) -> jax.Array:
        return jnp.asarray(leaf + scale * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(move, jax.device_get(params))


@functools.cache
def blank_flow() -> flows.Flow:
    """A Glow that only squeezes, so a standard normal: made at once, compiled in a second."""
    module = flows.Glow(SHAPE, depth=1, levels=1, width=4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["params"])
    fixed = jax.tree.map(lambda leaf: jnp.eye(leaf.shape[-1])[None], shapes["fixed"])
    return flows.bind(module, {"params": params, "fixed": fixed})


@functools.cache
def encoder() -> encoders.Encoder:
    """Random features: deterministic, quick, and saved like any encoder of the package."""
    return encoders.random_features(jax.random.key(3), SHAPE[-1])


def assert_finite(values) -> None:
    """Fails for NaN and infinities."""
    assert bool(jnp.all(jnp.isfinite(jnp.asarray(values))))
