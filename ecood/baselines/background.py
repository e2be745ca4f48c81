"""Background flows: what is left of the training images once random values have replaced some."""

import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood import keys
from ecood.errors import InputError, check_share
from ecood.flows import Flow, bind
from ecood.images import check_images, content_keys
from ecood.splits import Split, as_split, remember
from ecood.train import Fit, Task, TrainConfig, fit, flow_task

__all__ = ["MUTATION_RATES", "WEIGHT_DECAYS", "background_task", "mutate", "train_background"]

# To train a background flow at each pair; `likelihood_ratio` chooses.
MUTATION_RATES = (0.1, 0.2, 0.3)
WEIGHT_DECAYS = (0.0, 1e-5)


def mutate(key: jax.Array, images: jax.Array, rate: float) -> jax.Array:
    """Replaces each value of images, with probability `rate`, by a uniform one.

    Images are uint8 of any shape in and out. Raises an InputError for a rate outside
    (0, 1).

    Source: Ren et al. 2019, "Likelihood Ratios for Out-of-Distribution Detection",
    algorithm 1.
    """
    check_share("the mutation rate", rate, "a number between 0 and 1")
    with keys.same_bits():
        where, what = jax.random.split(keys.threefry(key))
        hit = jax.random.bernoulli(where, jnp.float32(rate), images.shape)
        return jnp.where(hit, jax.random.bits(what, images.shape, jnp.uint8), images)


def background_task(
    module: nn.Module, rate: float, weight_decay: float = 0.0, *, flip: bool = False
) -> Task:
    """Maximum likelihood of mutated images: `ecood.train.flow_task` with a mutation before it.

    Each time that training sees an image, its mutation is drawn anew. Held-out images have one
    that depends on the key and their own pixels. `weight_decay` is the factor of the sum of the
    squared convolution kernels, added to the loss in bits/dim. Errors are those of `flow_task`.
    """
    return _mutated(flow_task(module, flip=flip), rate, weight_decay)


@functools.lru_cache(maxsize=16)  # the same functions again: what is compiled for them stays
def _mutated(plain: Task, rate: float, weight_decay: float) -> Task:
    def init(key: jax.Array, images: jax.Array) -> Any:
        mutation, key = jax.random.split(key)
        return plain.init(key, mutate(mutation, images, rate))

    def loss(variables: Any, key: jax.Array, images: jax.Array) -> tuple[jax.Array, Any]:
        mutation, key = jax.random.split(key)
        value, changed = plain.loss(variables, key, mutate(mutation, images, rate))
        return value + weight_decay * _squared_kernels(variables["params"]), changed

    def evaluate(variables: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        mutations = content_keys(jax.random.fold_in(key, 1), images)
        mutated = jax.vmap(functools.partial(mutate, rate=rate))(mutations, images)
        return plain.evaluate(variables, key, mutated)

    name = f"{plain.name}, mutated {rate}, decay {weight_decay}"
    return Task(name, init, loss, evaluate, plain.matrices)


def _squared_kernels(params: Any) -> jax.Array:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum((jnp.sum(leaf**2) for path, leaf in leaves if path[-1].key == "kernel"), 0.0)


def train_background(
    module: nn.Module,
    split: Split | np.ndarray,
    rate: float,
    config: TrainConfig,
    directory: str | pathlib.Path | None = None,
    *,
    weight_decay: float = 0.0,
    flip: bool = False,
    **options: Any,
) -> tuple[Flow, Fit]:
    """Trains a background flow on mutated ID images, for `likelihood_ratio`.

    `module` has the main flow's architecture. `split` is the one that the main flow was
    trained on, or the images that it was drawn from by `ecood.splits.as_split`. `rate`
    is mu, the share of values replaced, and `weight_decay` as of `background_task`.
    Directory, options, results and errors are those of `ecood.train.fit_flow`; the flow
    remembers the images as they were before the mutation.
    """
    split = as_split(split)
    check_images(split.train, getattr(module, "image_shape", None))
    if not 0 <= weight_decay < float("inf"):
        raise InputError(f"weight_decay is {weight_decay}; expected 0 or a positive number.")
    task = background_task(module, rate, weight_decay, flip=flip)
    fitted = fit(task, split.train, split.held_out, config, directory, **options)
    return bind(module, fitted.variables, trained_on=remember(split.train)), fitted
