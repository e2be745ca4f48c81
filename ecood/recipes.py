"""From ID images to a trained flow and encoder: the settings that all programs share."""

import dataclasses
import pathlib

import flax.linen as nn
import jax
import numpy as np

from ecood import encoders
from ecood.errors import InputError
from ecood.images import hold_out
from ecood.progress import training
from ecood.tasks import encoder_task
from ecood.train import Fit, TrainConfig, fit, fit_flow

__all__ = ["levels", "train_encoder", "train_flow"]

MOST_LEVELS = 3
FLOW_BATCH, ENCODER_BATCH = 64, 256


def levels(image_shape: tuple[int, int, int]) -> int:
    """L, the levels of a flow for images of this shape: 3, or as many as the sides are even.

    Raises:
      InputError: for odd sides, which no flow of `ecood.flows` can squeeze.
    """
    height, width, _ = image_shape
    fitting = [n for n in range(1, MOST_LEVELS + 1) if height % 2**n == 0 == width % 2**n]
    if not fitting:
        raise InputError(
            f"the images are {height} x {width} pixels; flows need even sides, at best multiples "
            "of 8: resize the images."
        )
    return fitting[-1]


def train_flow(
    module: nn.Module,
    images: np.ndarray,
    config: TrainConfig,
    directory: str | pathlib.Path | None = None,
    *,
    flip: bool = False,
    title: str = "training the flow",
) -> Fit:
    """`ecood.train.fit_flow` under a progress bar."""
    with training(title) as progress:
        return fit_flow(module, images, config, directory, flip=flip, progress=progress)


def train_encoder(
    images: np.ndarray,
    minutes: float | None,
    directory: str | pathlib.Path | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
) -> encoders.Encoder:
    """The compact encoder, trained without labels on ID images, under a progress bar.

    Args:
      images: uint8 [N, H, W, C], of which the last twentieth is held out; H and W multiples of 4.
      minutes: how long to train, or None for `steps`.
      directory: where checkpoints go, from which an interrupted run resumes.
      steps: optimiser steps, instead of `minutes`.
      seed: of everything random.

    Raises:
      InputError: for images or a length that cannot be used.
    """
    if images.shape[1] % 4 or images.shape[2] % 4:
        raise InputError(
            f"the images are {images.shape[1]} x {images.shape[2]} pixels; the compact encoder "
            "needs multiples of 4: resize them or choose another encoder."
        )
    module = encoders.Compact(channels=images.shape[-1])
    config = TrainConfig(
        steps=steps, minutes=minutes, learning_rate=2e-3, eval_every=100, seed=seed
    )
    config = dataclasses.replace(config, batch_size=batch_size(images, ENCODER_BATCH))
    with training("training the encoder") as progress:
        fitted = fit(encoder_task(module), images, config, directory, progress=progress)
    return encoders.compact(module, fitted.variables)


def batch_size(images: np.ndarray, usual: int) -> int:
    """The usual number of images a step, or fewer if there are not so many; devices share them.

    Args:
      images: uint8 [N, H, W, C], all that are there, those that will be held out included.
      usual: the number for a large data set.
    """
    devices = jax.device_count()
    most = min(usual, len(hold_out(images)[0]))
    return max(1, most // devices) * devices
