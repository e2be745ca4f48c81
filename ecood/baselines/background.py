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
    """Replaces each pixel's each channel, with probability `rate`, by a random value.

    Args:
      key: a PRNG key.
      images: uint8 [N, H, W, C].
      rate: mu, in (0, 1).

    Returns:
      uint8 [N, H, W, C]; what replaces is uniform from 0 to 255.

    Raises:
      InputError: for a rate that is none.

    Source: Ren et al. 2019, "Likelihood Ratios for Out-of-Distribution Detection", algorithm 1.
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
    """Trains a background flow on mutated ID images.

    Args:
      module: the flow, of the main flow's architecture.
      split: the one that the main flow was trained on, or the images that it was drawn from by
        `ecood.splits.as_split`.
      rate: mu, the share of values replaced.
      config: how to train; its seed also draws the mutations, once for the run.
      directory: for checkpoints and the log.
      **options: as of `ecood.train.fit_flow`.

    Returns:
      The flow, for `likelihood_ratio`; it remembers the images as they were before the mutation.
    """
    split = as_split(split)
    flow, _ = fit_flow(module, mutate_split(split, rate, config.seed), config, directory, **options)
    return flow.replace(trained_on=remember(split.train))
