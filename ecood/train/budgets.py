"""Training for budgets of CPU time, so that densities of different kinds can be compared fairly."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ecood import keys
from ecood.devices import Placement, share, without_mesh
from ecood.digests import digest
from ecood.errors import InputError
from ecood.train import segment
from ecood.train.checkpoints import Checkpoints
from ecood.train.segment import TrainConfig
from ecood.train.tasks import Task

__all__ = ["Reached", "fit_budgets"]

SAVED = 60.0  # CPU seconds between checkpoints


class Reached(NamedTuple):
    """What a run is when a budget is spent."""

    minutes: float  # the budget, of CPU time
    steps: int  # of the optimiser, done
    variables: Any  # the averaged ones
    planned: float  # the last budget that the rate knew of, in minutes


def fit_budgets(
    task: Task,
    train: np.ndarray,
    config: TrainConfig,
    minutes: Sequence[float],
    directory: pathlib.Path,
    progress: Callable[[dict[str, float]], None],
) -> Iterator[Reached]:
    """Trains on one device, and yields what there is after each budget, ascending.

    CPU time is the process's, all cores together, without compiling and without what the caller
    does between budgets. The learning rate is constant up to the first budget, which tells how many
    steps the last one takes; from there on it is that of `train.fit` with as many steps. The
    configuration's own `minutes` do not count, and nothing is evaluated. `directory` keeps
    checkpoints, one a CPU minute: the same call resumes, and larger budgets continue, the rate with
    as many steps as they take. Nothing is yielded for a budget that the run there was past already.
    `progress` is called after each segment, as by `train.fit`.

    Raises:
      InputError: if several processes compute together, and for what `directory` keeps of another
        task, configuration, first budget or other images.
    """
    if jax.process_count() > 1:
        raise InputError(
            "several processes compute together, and a budget of CPU time is one process's; start "
            "one alone, without JAX_COORDINATOR_ADDRESS."
        )
    reached = _reached(task, train, config, minutes, directory, progress)
    with contextlib.closing(reached):
        while True:
            with without_mesh(), keys.same_bits():  # not while the caller computes
                each = next(reached, None)
            if each is None:
                return
            yield each


def _reached(
    task: Task,
    train: np.ndarray,
    config: TrainConfig,
    minutes: Sequence[float],
    directory: pathlib.Path,
    progress: Callable[[dict[str, float]], None],
) -> Iterator[Reached]:
    placement = share(jax.devices()[:1])
    run = {"task": task.name, "train": digest(train), **dataclasses.asdict(config)}
    run["minutes"] = minutes[0]  # larger ones continue the run
    with Checkpoints(directory, run) as checkpoints:
        first = segment.make_initial_state(task, config, placement)(train[:256])
        none = placement.replicate(np.float32(0))
        state, *known = checkpoints.restore((first, none, none, none))
        before, spent, planned = map(float, known)  # CPU seconds; before the last segment, too
        resident = placement.replicate(train)
        advance, saved = None, spent
        for budget in minutes:
            if 60 * budget <= before:
                continue
            falls = budget > minutes[0] and spent < 60 * budget  # the rate, from here on
            if falls and planned != np.float32(minutes[-1]):
                total = np.int32(int(state.step) * 60 * minutes[-1] / spent)
                state = state._replace(total_steps=placement.replicate(total))
                planned = float(np.float32(minutes[-1]))
            while spent < 60 * budget:
                advance = advance or _compiled(task, config, placement, state, resident)
                started = time.process_time()
                state, told = jax.block_until_ready(advance(state, resident))
                before, spent = spent, spent + time.process_time() - started
                record = {"step": int(state.step), "loss": float(told["loss"])}
                progress(record | {"steps": segment.STEPS, "total_steps": int(state.total_steps)})
                if spent >= min(saved + SAVED, 60 * budget):
                    checkpoints.append_log(record | {"cpu_seconds": spent})
                    known = map(np.float32, (before, spent, planned))
                    checkpoints.save(record["step"], (state, *known))
                    saved = spent
            last = float(f"{planned:g}") or minutes[0]  # as it was given, not in float32
            yield Reached(budget, int(state.step), segment.averaged(state), last)


def _compiled(task: Task, config: TrainConfig, placement: Placement, *arguments: Any) -> Callable:
    """The program of a segment, before its time counts."""
    advance = segment.make_segment(task, config, placement, segment.STEPS)
    return advance.lower(*arguments).compile()
