"""How to train: one frozen dataclass."""

import dataclasses
import math

from ecood.errors import InputError

__all__ = ["TrainConfig"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train: `steps` or `minutes` bounds the run.

    Raises `InputError` for a setting with which nothing can be trained.
    """

    steps: int | None = None  # of the optimiser, rounded up to whole segments of 25
    # As many steps as fit at the speed of the first segments; fixed then, so that the
    # learning rate has its whole schedule.
    minutes: float | None = None
    batch_size: int = 64  # examples a step, over all devices
    learning_rate: float = 1.5e-3  # Adam's peak; linear warm-up, then cosine to zero
    warmup: int = 200  # steps; a run that is no longer ends while the rate still rises
    clip_norm: float = 100.0  # of the gradient's global norm
    ema_decay: float = 0.998  # of the averaged parameters, evaluated and returned
    eval_every: int = 250  # steps between evaluations on the held-out examples
    patience: int = 20  # evaluations without improvement, after which the run stops
    seed: int = 0  # of initialisation, sampling, dequantisation and augmentation

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
