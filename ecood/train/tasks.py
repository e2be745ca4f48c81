"""What can be trained: likelihood for flows, contrast for encoders, each as pure functions."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.errors import InputError
from ecood.flows import bits_per_dim
from ecood.images import content_keys, dequantise
from ecood.train import simclr

__all__ = ["Task", "encoder_task", "flow_task"]

NO_FLOW = "cannot be trained; expected a linen module with"


class Task(NamedTuple):
    """What is trained, as pure functions."""

    name: str  # of task and architecture; a checkpoint of another name is refused
    # (key, first batch) -> variables
    init: Callable[[jax.Array, jax.Array], Any]
    # (variables, key, images) -> the scalar to minimise, and the updated collections
    # beside "params"
    loss: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
    # (variables, key, images) -> [B], smaller is better; its mean decides what is kept.
    # Copies of the last image, which fill the last batch, must not change the others.
    evaluate: Callable[[Any, jax.Array, jax.Array], jax.Array]
    # params -> a tree of bools: which are matrices [..., in, out] of hidden layers, trained by Muon
    # and the others by Adam; None: Adam trains all
    matrices: Callable[[Any], Any] | None = None


def flow_task(module: nn.Module, *, flip: bool = False) -> Task:
    """Maximum likelihood for a linen module with `log_prob(x, train=False)`, which `__call__` is.

    Its attributes are hashable, as tuples are and lists are not; if it has a method `matrices`,
    that is the task's. Held out in bits/dim, dequantisation fixed; `flip` mirrors half of the
    training set.

    Raises:
      InputError: for another module.
    """
    kind = type(module)
    if not (isinstance(module, nn.Module) and hasattr(kind, "log_prob") and _is_called(kind)):
        raise InputError(f"{kind.__name__} {NO_FLOW} log_prob(x, train=False), which __call__ is.")
    if "train" not in inspect.signature(kind.log_prob).parameters:
        raise InputError(f"{kind.__name__} {NO_FLOW} log_prob(x, train=False): it takes no train.")
    try:
        hash(module)
    except TypeError as error:
        raise InputError(f"{kind.__name__} {NO_FLOW} attributes like tuples, not lists.") from error
    return _flow_task(module, flip)


def _is_called(kind: type) -> bool:
    return any("__call__" in vars(each) for each in kind.__mro__)


@functools.lru_cache(maxsize=16)  # the same functions again: what is compiled for them stays
def _flow_task(module: nn.Module, flip: bool) -> Task:
    def prepare(key: jax.Array, images: jax.Array) -> jax.Array:
        return jax.vmap(dequantise)(jax.random.split(key, len(images)), images)

    def init(key: jax.Array, images: jax.Array) -> Any:
        noise, params, probe = jax.random.split(key, 3)
        rngs = {"params": params, "probe": probe}
        return module.init(rngs, prepare(noise, images))

    def loss(variables: Any, key: jax.Array, images: jax.Array) -> tuple[jax.Array, Any]:
        noise, mirror, probe = jax.random.split(key, 3)
        if flip:
            mirrored = jax.random.bernoulli(mirror, jnp.float32(0.5), (len(images), 1, 1, 1))
            images = jnp.where(mirrored, images[:, :, ::-1], images)
        log_prob, changed = module.apply(
            variables,
            prepare(noise, images),
            train=True,
            method="log_prob",
            rngs={"probe": probe},
            mutable=[name for name in variables if name not in ("params", "fixed")],
        )
        return jnp.mean(bits_per_dim(log_prob, images.shape[1:])), changed

    def evaluate(variables: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        x = jax.vmap(dequantise)(content_keys(key, images), images)
        log_prob = module.apply(variables, x, method="log_prob", rngs={"probe": key})
        return bits_per_dim(log_prob, images.shape[1:])

    matrices = module.matrices if callable(getattr(type(module), "matrices", None)) else None
    name = f"{module!r}{', mirrored' if flip else ''}{', by Muon' if matrices else ''}"
    return Task(name, init, loss, evaluate, matrices)


@functools.lru_cache(maxsize=16)
def encoder_task(module: nn.Module) -> Task:
    """Contrastive learning (`ecood.train.simclr`) for a linen module with `project`."""

    def init(key: jax.Array, images: jax.Array) -> Any:
        return module.init(key, images.astype(jnp.float32) / 255, method="project")

    def loss(variables: Any, key: jax.Array, images: jax.Array) -> tuple[jax.Array, Any]:
        return jnp.mean(simclr.losses(module, variables, key, images)), {}

    def evaluate(variables: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        return simclr.losses(module, variables, key, images)

    return Task(repr(module), init, loss, evaluate)
