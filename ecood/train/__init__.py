"""Training: from in-distribution images to a flow or an encoder that remembers them.

A command calls `fit_flow` or `fit_encoder` (`models.py`), which call `fit` (`loop.py`),
the loop; it evaluates, stops early, saves and resumes to the bit, and runs compiled
segments of 25 optimiser steps (`segment.py`). `fit_budgets` (`budgets.py`) runs the same
segments for a given CPU time, to compare models; `fit_constants` (`code.py`) fits those of the
universal code. What is minimised are pure functions
(`tasks.py`, `simclr.py`). A model of your own needs a `Task` and two arrays; nothing
but `models.py` asks for images.
"""

from ecood.train.budgets import Reached, fit_budgets
from ecood.train.loop import Fit, fit
from ecood.train.models import (
    batch_size,
    encoder_config,
    fit_beside_flow,
    fit_encoder,
    fit_flow,
    fit_parts,
    flow_batch_size,
    flow_module,
    levels,
    usual_encoder,
)
from ecood.train.segment import TrainConfig
from ecood.train.tasks import Task, encoder_task, flow_task

__all__ = [
    "Fit",
    "Reached",
    "Task",
    "TrainConfig",
    "batch_size",
    "encoder_config",
    "encoder_task",
    "fit",
    "fit_beside_flow",
    "fit_budgets",
    "fit_encoder",
    "fit_flow",
    "fit_parts",
    "flow_batch_size",
    "flow_module",
    "flow_task",
    "levels",
    "usual_encoder",
]
