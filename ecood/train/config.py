"""How to train: one frozen dataclass."""

import dataclasses
import math

from ecood.errors import InputError

__all__ = ["TrainConfig"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train. `steps` or `minutes` bounds the run.

    Attributes:
      steps: optimiser steps, rounded up to whole segments of 25.
      minutes: instead of `steps`: as many steps as fit, at the speed measured during the first
        segments; fixed then, so that the learning rate has its whole schedule.
      batch_size: examples a step, over all devices.
      learning_rate: Adam's peak rate; linear warm-up over `warmup` steps, then cosine decay to
        zero. A run that is not longer than the warm-up ends while the rate still rises.
      warmup: steps of warm-up.
      clip_norm: the gradient's global norm is clipped to this.
      ema_decay: of the averaged parameters, which are the ones evaluated and returned.
      eval_every: steps between evaluations on the held-out examples.
      patience: evaluations without improvement after which the run stops early.
      seed: of initialisation, sampling, dequantisation and augmentation.

    Raises:
      InputError: for a setting with which nothing can be trained.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    warmup: int = 200
    clip_norm: float = 100.0
    ema_decay: float = 0.998
    eval_every: int = 250
    patience: int = 20
    seed: int = 0

    def __post_init__(self):
        if (self.steps is None) == (self.minutes is None):
            raise InputError("give either steps or minutes to train for, and not both.")
        length = self.minutes if self.steps is None else self.steps
        if not 0 < length < math.inf:
            raise InputError(
                f"training for {length} is no training; give a positive number of steps or minutes."
            )
        if not (self.steps or 0) < 2**31:
            raise InputError(f"steps is {self.steps}; expected fewer than 2**31.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}; expected 0 to 2**32 - 1.")
        for name in ("batch_size", "warmup", "eval_every", "patience"):
            if not getattr(self, name) >= 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; expected a positive number.")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; expected 0 or more, below 1.")
