"""Training: from in-distribution images to a flow or an encoder that remembers them.

A command calls `fit_flow` or `fit_encoder`, and those call `fit`, the one loop:

* `models.py`: `fit_flow`, `fit_encoder`, and the settings that suit images of a shape and number;
* `tasks.py`: what is minimised, as pure functions: likelihood for flows, contrast for encoders;
* `simclr.py`: the contrastive loss and its views;
* `loop.py`: `fit`, on the host: evaluates, stops early, saves and resumes to the bit;
* `segment.py`: the compiled program that `fit` calls, 25 optimiser steps at a time;
* `config.py`: `TrainConfig`, how to train;
* `checkpoints.py`: the folder of a run.

A model of your own needs a `Task` and two arrays; nothing but `models.py` asks for images.
"""

from ecood.train.config import TrainConfig
from ecood.train.loop import Fit, fit
from ecood.train.models import batch_size, encoder_config, fit_encoder, fit_flow, levels
from ecood.train.tasks import Task, encoder_task, flow_task

__all__ = [
    "Fit",
    "Task",
    "TrainConfig",
    "batch_size",
    "encoder_config",
    "encoder_task",
    "fit",
    "fit_encoder",
    "fit_flow",
    "flow_task",
    "levels",
]
