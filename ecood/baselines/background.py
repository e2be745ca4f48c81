"""Background flows: what is left of the training images once random values have replaced some."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood import flows
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.train import TrainConfig, fit_flow

__all__ = ["MUTATION_RATES", "mutate", "train_background"]

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


def train_background(
    module: nn.Module,
    id_images: np.ndarray,
    rate: float,
    config: TrainConfig,
    directory: str | pathlib.Path | None = None,
    **options: Any,
) -> Flow:
    """Trains a background flow on mutated ID images.

    Args:
      module: the flow, of the main flow's architecture.
      id_images: uint8 [N, H, W, C], the array that the main flow was trained from; the last
        twentieth of it stays held out here too.
      rate: mu, the share of values replaced.
      config: how to train; its seed also draws the mutations, once for the run.
      directory: for checkpoints and the log.
      **options: as of `ecood.train.fit`.

    Returns:
      The flow, for `likelihood_ratio`.
    """
    mutated = mutate(jax.random.key(config.seed), id_images, rate)
    fitted = fit_flow(module, mutated, config, directory, **options)
    return flows.bind(module, fitted.variables)
