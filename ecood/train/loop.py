"""The training loop: any task, any arrays, data-parallel, resumable to the bit."""

import dataclasses
import hashlib
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ecood import hosts, keys
from ecood.batches import map_images
from ecood.devices import share, without_mesh
from ecood.errors import InputError
from ecood.train import segment
from ecood.train.checkpoints import Checkpoints
from ecood.train.segment import STEPS, TrainConfig, TrainState, averaged
from ecood.train.tasks import Task
from ecood.words import number_of

__all__ = ["Fit", "fit"]


CHECKPOINT_SECONDS = 60.0


class Fit(NamedTuple):
    """What a run ends with."""

    variables: Any  # the averaged ones of the best evaluation
    held_out: float  # the mean of `Task.evaluate` at that evaluation
    steps: int  # of the optimiser, done
    log: list[dict[str, float]]  # one dict an evaluation, as written to `log.jsonl`


@without_mesh()
def fit(
    task: Task,
    train: np.ndarray,
    held_out: np.ndarray,
    config: TrainConfig,
    directory: str | pathlib.Path | None = None,
    *,
    progress: Callable[[dict[str, float]], None] | None = None,
    devices: list[jax.Device] | None = None,
) -> Fit:
    """Trains a task; resumes if `directory` holds an unfinished run.

    The gradient sees `train`, [N, ...], of whatever the task is of. On `held_out`, rows
    of the same kind, the best parameters are chosen, and a run that no longer improves
    is stopped. Checkpoints, at each evaluation and once a minute, and `log.jsonl` go to
    `directory`; a run that was interrupted ends with the same bits as one that was not,
    on the same machine.
    `progress` is called after each segment of 25 steps (the last may be shorter) with the
    step, how many the segment had, and its metrics.
    `devices`, all if None, train data-parallel.

    Raises `InputError` for arrays that do not go together or have too few rows, a batch
    that the devices cannot share, a directory of another task, data set or
    configuration, or a held-out value that was never finite.
    """
    train, held_out = _check_arrays(train, held_out, config)
    placement = share(devices or jax.devices())
    if config.batch_size % placement.count:
        raise InputError(
            f"a batch of {number_of(config.batch_size, 'image')} cannot be shared by "
            f"{placement.count} devices; choose a multiple."
        )
    data = {"train": _digest(train), "held_out": _digest(held_out)}
    run = {"task": task.name, **data, **dataclasses.asdict(config)}
    if not placement.everywhere.is_fully_addressable and hosts.agree(run) != run:
        raise InputError(
            f"process {jax.process_index()} was given other images or settings than the first of "
            f"{jax.process_count()} that train together; give all of them the same."
        )
    initial = segment.make_initial_state(task, config, placement)
    first = train[: max(256, config.batch_size)]
    jax.eval_shape(initial, first)  # what cannot be built claims no directory
    with keys.same_bits(), Checkpoints(directory, run) as checkpoints:
        state = checkpoints.restore(initial(first))
        resident = placement.replicate(train)
        started, saved = time.perf_counter(), time.monotonic()
        speed: list[float] = []
        while not _finished(state, config):
            before, left = time.perf_counter(), int(state.total_steps) - int(state.step)
            steps = min(STEPS, left) if left > 0 else STEPS  # below 0 until the total is known
            advance = segment.make_segment(task, config, placement, steps)
            state, metrics = advance(state, resident)
            metrics = {name: float(value) for name, value in metrics.items()}
            speed.append(time.perf_counter() - before)
            if int(state.total_steps) == 0 and len(speed) > 3:
                total = _total_steps(int(state.step), config.minutes, speed)
                state = state._replace(total_steps=jax.device_put(total, placement.everywhere))
            step, total = int(state.step), int(state.total_steps)
            record = {"step": step, "steps": steps, "total_steps": total, **metrics}
            record["images_per_second"] = steps * config.batch_size / speed[-1]
            record["seconds"] = time.perf_counter() - started
            if step % config.eval_every < steps or step == total:
                value = _evaluate(task, state, held_out)
                state = jax.device_put(_remember_best(state, value), placement.everywhere)
                record |= {"held_out": value, "best": float(state.best_value)}
                checkpoints.append_log(record)
            if "held_out" in record or _late(saved):
                checkpoints.save(step, state)
                saved = time.monotonic()
            if progress is not None:
                progress(record)
    if not math.isfinite(state.best_value):
        raise InputError(
            "the held-out value was never finite, so nothing was learned; try a smaller learning "
            "rate."
        )
    return Fit(state.best, float(state.best_value), int(state.step), checkpoints.log)


def _check_arrays(
    train: np.ndarray, held_out: np.ndarray, config: TrainConfig
) -> tuple[np.ndarray, np.ndarray]:
    train, held_out = np.asarray(train), np.asarray(held_out)
    kinds = [(array.dtype, array.shape[1:]) for array in (train, held_out)]
    if 0 in (train.ndim, held_out.ndim) or kinds[0] != kinds[1] or len(held_out) == 0:
        told = [f"{array.dtype} {list(array.shape)}" for array in (train, held_out)]
        raise InputError(
            f"train is {told[0]} and held_out is {told[1]}; expected two arrays of the same dtype "
            "and the same shape of a row, neither of them empty."
        )
    if len(train) < config.batch_size:
        raise InputError(
            f"{number_of(len(train), 'training example is', 'training examples are')} given and "
            f"the batch size is {config.batch_size}; give more of them or a smaller batch."
        )
    return train, held_out


def _digest(array: np.ndarray) -> str:
    """Tells data sets apart, as ecood 0.1 did, whose runs resume."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def _finished(state: TrainState, config: TrainConfig) -> bool:
    total = int(state.total_steps)
    return (total > 0 and int(state.step) >= total) or int(state.since_best) >= config.patience


def _total_steps(step: int, minutes: float, speed: list[float]) -> np.int32:
    """Minutes as steps of a run without interruption; its first segment compiles."""
    per_segment = float(np.median(speed[1:]))
    segments = max(step // STEPS + 1, math.ceil(60 * minutes / per_segment))
    segments = min(segments, (2**31 - 1) // STEPS)  # as many as an int32 counts
    # Processes that train together measure each its own speed; the first one's counts.
    segments = int(multihost_utils.broadcast_one_to_all(np.int32(segments)))
    return np.int32(segments * STEPS)


def _late(saved: float) -> bool:
    """Whether a kill would cost more than a minute; the first process's clock counts."""
    late = np.bool_(time.monotonic() - saved > CHECKPOINT_SECONDS)
    return bool(multihost_utils.broadcast_one_to_all(late))


def _evaluate(task: Task, state: TrainState, held_out: np.ndarray) -> float:
    variables = averaged(state)
    values = map_images(task.evaluate, variables, keys.make(0), images=held_out)
    return float(np.mean(values, dtype=np.float64))


def _remember_best(state: TrainState, value: float) -> TrainState:
    if value < float(state.best_value):
        return state._replace(
            best=jax.tree.map(jnp.copy, averaged(state)),
            best_value=np.float32(value),
            since_best=np.int32(0),
        )
    return state._replace(since_best=state.since_best + 1)
