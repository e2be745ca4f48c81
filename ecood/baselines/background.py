"""Background flows: what is left of the training images once random values have replaced some."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood.errors import InputError
from ecood.flows import Flow
from ecood.splits import Split, as_split, remember
from ecood.train import TrainConfig, fit_flow

__all__ = ["MUTATION_RATES", "mutate", "mutate_split", "train_background"]

MUTATION_RATES = (0.1, 0.2, 0.3)  # to train a background flow at each; `likelihood_ratio` chooses


def mutate(key: jax.Array, images: np.ndarray, rate: float) -> np.ndarray:
    """Replaces each value of images, with probability `rate`, by a uniform one.

    Images are uint8 [N, H, W, C] in and out. Raises an InputError for a rate outside
    (0, 1).

    Source: Ren et al. 2019, "Likelihood Ratios for Out-of-Distribution Detection",
    algorithm 1.
    """
    if not 0 < rate < 1:
        raise InputError(f"the mutation rate is {rate}; expected a number between 0 and 1.")
    where, what = jax.random.split(key)
    hit = jax.random.bernoulli(where, rate, images.shape)
    return np.asarray(jnp.where(hit, jax.random.bits(what, images.shape, jnp.uint8), images))


def mutate_split(split: Split, rate: float, seed: int) -> Split:
    """The split with `mutate`d images in all parts that training sees, drawn by the seed."""
    both = np.concatenate([split.train, split.held_out])
    mutated = mutate(jax.random.key(seed), both, rate)
    train, held_out = np.split(mutated, [len(split.train)])
    return Split(train, held_out, split.calibration)


def train_background(
    module: nn.Module,
    split: Split | np.ndarray,
    rate: float,
    config: TrainConfig,
    directory: str | pathlib.Path | None = None,
    **options: Any,
) -> Flow:
    """Trains a background flow on mutated ID images, for `likelihood_ratio`.

    `module` has the main flow's architecture. `split` is the one that the main flow was
    trained on, or the images that it was drawn from by `ecood.splits.as_split`. `rate`
    is mu, the share of values replaced; the config's seed draws the mutations too, once
    for the run. Directory and options are those of `ecood.train.fit_flow`. The flow
    remembers the images as they were before the mutation.
    """
    split = as_split(split)
    flow, _ = fit_flow(module, mutate_split(split, rate, config.seed), config, directory, **options)
    return flow.replace(trained_on=remember(split.train))
