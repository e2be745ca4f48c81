"""A small flow, encoder and images that tests share; deterministic, made in seconds."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

from ecood import encoders, flows, score, splits, statistics

SHAPE = (8, 8, 3)


def images(n: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Smooth random images: a coarse pattern, enlarged, plus a little texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (n, shape[0] // 4, shape[1] // 4, shape[2]))
    return (coarse.repeat(4, 1).repeat(4, 2) + rng.integers(0, 56, (n, *shape))).astype(np.uint8)


def split(n: int, seed: int = 0, calibration: float = 0.0, **options: Any) -> splits.Split:
    """`images` in parts, a twentieth held out."""
    return splits.draw(images(n, seed, **options), calibration=calibration)


@functools.cache
def flow(
    seed: int = 0, shape: tuple[int, int, int] = SHAPE, depth: int = 2, width: int = 8
) -> flows.Flow:
    """A Glow whose couplings are not the identity, about as wide as `images` are."""
    rng = np.random.default_rng(seed)
    module = flows.Glow(shape, depth=depth, levels=1, width=width)

    def fill(path, leaf):
        if path[-1].key == "rotation":
            return jnp.asarray(np.linalg.qr(rng.normal(size=leaf.shape))[0], leaf.dtype)
        centre = 1.3 / depth * (path[-2].key == "act_norm" and path[-1].key == "log_scale")
        return jnp.asarray(centre + 0.05 * rng.normal(size=leaf.shape), leaf.dtype)

    return flows.bind(module, jax.tree_util.tree_map_with_path(fill, _shapes(module)))


def gaussian() -> flows.Flow:
    """A density that compiles in no time: each pixel is Gaussian about a part of its neighbour."""
    return flows.Flow(_neighbours, {"mean": jnp.float32(0.2), "scale": jnp.float32(0.1)})


def _neighbours(variables, key, x):
    del key
    z = (x[:, :, 1:] - 0.5 * x[:, :, :-1] - variables["mean"]) / variables["scale"]
    return -jnp.sum(0.5 * z**2 + jnp.log(variables["scale"]), axis=(1, 2, 3))


def moved(params: Any, scale: float, seed: int = 0) -> Any:
    """Parameters with Gaussian noise added; by numpy, as JAX would compile it for each shape."""
    rng = np.random.default_rng(seed)

    def move(leaf: jax.Array) -> jax.Array:
        return jnp.asarray(leaf + scale * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(move, jax.device_get(params))


def away(module: nn.Module, shape: tuple[int, ...], amount: float, **options: Any) -> Any:
    """Variables of a flow away from its start; by numpy, as JAX would compile its `init`.

    Kernels keep the size of what they are given, about; all else is as large as `amount`.
    """
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if path[-1].key == "rotation":
            return jnp.asarray(np.linalg.qr(rng.normal(size=leaf.shape))[0], leaf.dtype)
        scale = math.prod(leaf.shape[:-1]) ** -0.5 if path[-1].key == "kernel" else amount
        return jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)

    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    rngs = {"params": jax.random.key(0), "probe": jax.random.key(0)}
    shapes = jax.eval_shape(functools.partial(module.init, **options), rngs, x)
    return jax.tree_util.tree_map_with_path(fill, shapes)


@functools.cache
def blank_flow() -> flows.Flow:
    """A Glow that only squeezes, so a standard normal: made at once, compiled in a second."""
    module = flows.Glow(SHAPE, depth=1, levels=1, width=4)
    shapes = _shapes(module)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["params"])
    fixed = jax.tree.map(lambda leaf: jnp.eye(leaf.shape[-1])[None], shapes["fixed"])
    return flows.bind(module, {"params": params, "fixed": fixed})


def _shapes(module: flows.Glow) -> Any:
    x = jax.ShapeDtypeStruct((1, *module.image_shape), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x)


@functools.cache
def encoder(seed: int = 3, channels: int = SHAPE[-1]) -> encoders.Encoder:
    """Random features: deterministic, quick, and saved like any encoder of the package."""
    module = encoders.MODULES["RandomFeatures"](channels)
    kernel = np.random.default_rng(seed).normal(size=(5, 5, channels, module.filters))
    variables = {"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}
    return encoders.encoder(module, variables, name="random_features")


def scorer(
    flow: flows.Flow,
    encoder: encoders.Encoder,
    shape: tuple[int, int, int] = SHAPE,
    **options: Any,
) -> score.Scorer:
    """One to be saved or refused: its bank and reference are made up, so that nothing is fitted."""
    one = jax.ShapeDtypeStruct((1, *shape), np.uint8)
    width = jax.eval_shape(encoder.embed, one).shape[1]
    bank = np.random.default_rng(0).normal(size=(38, width))
    bank = jnp.asarray(bank / np.linalg.norm(bank, axis=1, keepdims=True), jnp.float32)
    reference = statistics.Reference(jnp.float32([4, 0.5, -0.5, 1]), jnp.float32([0.5] * 4))
    state = score.SPEMState(flow, encoder, bank, jnp.float32(0.1), reference)
    return score.Scorer(state, shape, **options)


def assert_finite(values) -> None:
    """Fails for NaN and infinities."""
    assert bool(jnp.all(jnp.isfinite(jnp.asarray(values))))


_lowered: list[str] = []  # jax.monitoring has no way to take a listener off again


def _listen(event: str, seconds: float, **about: Any) -> None:
    del seconds
    if event.endswith("jaxpr_to_mlir_module_duration"):
        _lowered.append(str(about.get("fun_name")))


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def programs() -> Iterator[list[str]]:
    """The names of the programs that JAX makes anew in the block, filled when it ends."""
    before, made = len(_lowered), []
    jax.jit(lambda: before)()
    assert len(_lowered) == before + 1, "jax no longer tells of its programs"
    yield made
    made += _lowered[before + 1 :]
