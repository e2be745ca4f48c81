"""Fitting any task of `ecood.tasks`: one loop, compiled in segments, resumable to the bit.

The whole data set lives on the device and is sampled inside the compiled segment, so there is no
input pipeline and no host round trip between steps. Data-parallel over all devices: parameters
are replicated, batches are sharded, and the loss is a mean over the global batch, so one device
and eight compute the same thing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from ecood.batches import map_images
from ecood.checkpoints import Checkpoints
from ecood.devices import Placement, share
from ecood.errors import InputError
from ecood.images import check_images, hold_out
from ecood.tasks import Task, flow_task

__all__ = ["Fit", "TrainConfig", "fit", "fit_flow"]

SEGMENT = 25  # optimiser steps in one call of the compiled program


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train. `steps` or `minutes` bounds the run.

    Attributes:
      steps: optimiser steps, rounded up to whole segments of 25.
      minutes: instead of `steps`: as many steps as fit, at the speed measured during the first
        segments; fixed then, so that the learning rate has its whole schedule.
      batch_size: images a step, over all devices.
      learning_rate: Adam's peak rate; linear warm-up over `warmup` steps, then cosine decay to
        zero. A run that is not longer than the warm-up ends while the rate still rises.
      warmup: steps of warm-up.
      clip_norm: the gradient's global norm is clipped to this.
      ema_decay: of the averaged parameters, which are the ones evaluated and returned.
      eval_every: steps between evaluations on the held-out images.
      patience: evaluations without improvement after which the run stops early.
      seed: of initialisation, sampling, dequantisation and augmentation.
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


class TrainState(NamedTuple):
    """All that a run is, between two segments."""

    step: jax.Array
    total_steps: jax.Array  # 0 until known
    variables: Any
    ema: Any  # averaged params
    opt_state: Any
    best: Any  # the averaged variables of the best evaluation
    best_value: jax.Array
    since_best: jax.Array


class Fit(NamedTuple):
    """What a run ends with.

    Attributes:
      variables: the averaged variables of the best evaluation.
      held_out: the mean of `Task.evaluate` at that evaluation.
      steps: optimiser steps done.
      log: one dict an evaluation, as written to `log.jsonl`.
    """

    variables: Any
    held_out: float
    steps: int
    log: list[dict[str, float]]


def _optimiser(config: TrainConfig) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.scale_by_adam())


def _learning_rate(config: TrainConfig, step: jax.Array, total: jax.Array) -> jax.Array:
    """Linear warm-up, then half a cosine; while the total is unknown (0), only the warm-up."""
    warm = jnp.minimum(1.0, (step + 1) / config.warmup)
    done = jnp.clip((step - config.warmup) / jnp.maximum(total - config.warmup, 1), 0, 1)
    decay = jnp.where(total > 0, 0.5 * (1 + jnp.cos(jnp.pi * done)), 1.0)
    return config.learning_rate * warm * decay


def _order(key: jax.Array, step: jax.Array, n: int, batch_size: int) -> jax.Array:
    """Indices [SEGMENT, batch] of the next segment, every epoch a permutation of its own."""
    needed = SEGMENT * batch_size
    start = step * batch_size
    epoch = start // n
    epochs = epoch + jnp.arange(math.ceil(needed / n) + 1)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(epochs)
    order = jax.vmap(lambda k: jax.random.permutation(k, n))(keys).reshape(-1)
    return jax.lax.dynamic_slice_in_dim(order, start - epoch * n, needed).reshape(SEGMENT, -1)


@functools.lru_cache(maxsize=16)
def _make_segment(task: Task, config: TrainConfig, placement: Placement) -> Callable:
    """The compiled segment; the same one again for another run of the same kind."""
    optimiser = _optimiser(config)

    def segment(state: TrainState, images: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.key(config.seed)
        order = _order(jax.random.fold_in(key, 1), state.step, len(images), config.batch_size)

        def body(state: TrainState, indices: jax.Array):
            batch = jax.lax.with_sharding_constraint(images[indices], placement.rows)
            step_key = jax.random.fold_in(jax.random.fold_in(key, 2), state.step)
            params = state.variables["params"]
            rest = {k: v for k, v in state.variables.items() if k != "params"}

            def loss(params):
                return task.loss({"params": params, **rest}, step_key, batch)

            (value, changed), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            norm = optax.tree.norm(gradient)
            usable = jnp.isfinite(norm) & jnp.isfinite(value)
            updates, opt_state = optimiser.update(gradient, state.opt_state, params)
            rate = _learning_rate(config, state.step, state.total_steps)
            updated = jax.tree.map(lambda p, u: p - rate * u, params, updates)

            def keep(new, old):
                return jax.tree.map(lambda n, o: jnp.where(usable, n, o), new, old)

            params = keep(updated, params)
            decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
            ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
            state = state._replace(
                step=state.step + 1,
                variables={
                    "params": params,
                    **rest,
                    **keep(changed, {k: rest[k] for k in changed}),
                },
                ema=ema,
                opt_state=keep(opt_state, state.opt_state),
            )
            return state, {"loss": value, "gradient_norm": norm, "skipped": 1.0 - usable}

        state, metrics = jax.lax.scan(body, state, order)
        return state, jax.tree.map(jnp.mean, metrics)

    return jax.jit(segment, donate_argnums=0, out_shardings=placement.everywhere)


def _averaged(state: TrainState) -> Any:
    return {**state.variables, "params": state.ema}


def fit(
    task: Task,
    images: np.ndarray,
    config: TrainConfig,
    directory: str | pathlib.Path | None = None,
    *,
    progress: Callable[[dict[str, float]], None] | None = None,
    devices: list[jax.Device] | None = None,
) -> Fit:
    """Trains `task` on ID images; resumes if `directory` holds an unfinished run.

    Args:
      task: what to train.
      images: uint8 [N, H, W, C]; the last twentieth is held out (`ecood.images.hold_out`).
      config: how to train.
      directory: where checkpoints and `log.jsonl` go. An interrupted run continues from there
        and ends with the same bits as one that was not interrupted, on the same machine.
      progress: called after each segment with the step and its metrics.
      devices: train data-parallel on these; all devices if None.

    Returns:
      The best averaged variables and their held-out value.

    Raises:
      InputError: for images that are none, or too few, a batch that the devices cannot share, a
        directory that holds a run of another task, data set or configuration, or a run in which
        the held-out value was never finite.
    """
    images = check_images(images)
    train, held_out = hold_out(images)
    if len(train) < config.batch_size:
        raise InputError(
            f"there are {len(train)} training images and the batch size is {config.batch_size}; "
            "give more images or a smaller batch."
        )
    devices = devices or jax.devices()
    if config.batch_size % len(devices):
        raise InputError(
            f"a batch of {config.batch_size} images cannot be shared by {len(devices)} devices; "
            "choose a multiple."
        )
    placement = share(devices)
    replicated = placement.everywhere
    run = {
        "task": task.name,
        "images": hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest(),
        **{name: value for name, value in dataclasses.asdict(config).items()},
    }
    initial = _make_initial_state(task, config, replicated)
    first = train[: max(256, config.batch_size)]
    jax.eval_shape(initial, first)  # what cannot be built claims no directory
    with contextlib.closing(Checkpoints(directory, run)) as checkpoints:
        state = checkpoints.restore(initial(first))
        resident = jax.device_put(train, replicated)
        segment = _make_segment(task, config, placement)
        started = time.perf_counter()
        speed: list[float] = []
        while not _finished(state, config):
            before = time.perf_counter()
            state, metrics = segment(state, resident)
            metrics = {name: float(value) for name, value in metrics.items()}
            speed.append(time.perf_counter() - before)
            if int(state.total_steps) == 0:
                state = _set_total(state, config, speed, replicated)
            step = int(state.step)
            record = {
                "step": step,
                "total_steps": int(state.total_steps),
                **metrics,
                "images_per_second": SEGMENT * config.batch_size / speed[-1],
                "seconds": time.perf_counter() - started,
            }
            if step % config.eval_every < SEGMENT or step == record["total_steps"]:
                value = _evaluate(task, state, held_out)
                state = jax.device_put(_remember_best(state, value), replicated)
                record |= {"held_out": value, "best": float(state.best_value)}
                checkpoints.append_log(record)
                checkpoints.save(step, state)
            if progress is not None:
                progress(record)
    if not math.isfinite(state.best_value):
        raise InputError(
            "the held-out value was never finite, so nothing was learned; try a smaller learning "
            "rate."
        )
    return Fit(state.best, float(state.best_value), int(state.step), checkpoints.log())


@functools.lru_cache(maxsize=16)
def _make_initial_state(task: Task, config: TrainConfig, sharding: Sharding) -> Callable:
    """The compiled function from a first batch to the state before the first step."""
    total = 0 if config.steps is None else math.ceil(config.steps / SEGMENT) * SEGMENT
    copy = functools.partial(jax.tree.map, jnp.copy)

    def initial_state(batch: jax.Array) -> TrainState:
        variables = task.init(jax.random.fold_in(jax.random.key(config.seed), 0), batch)
        params = variables["params"]
        return TrainState(
            step=jnp.int32(0),
            total_steps=jnp.int32(total),
            variables=variables,
            ema=copy(params),
            opt_state=_optimiser(config).init(params),
            best=copy(variables),
            best_value=jnp.float32(jnp.inf),
            since_best=jnp.int32(0),
        )

    return jax.jit(initial_state, out_shardings=sharding)


def _set_total(
    state: TrainState, config: TrainConfig, speed: list[float], sharding: Sharding
) -> TrainState:
    """Turns minutes into steps once three segments are timed; the first one compiles.

    The steps before an interruption count, so the total is that of a run without one.
    """
    if len(speed) < 4:
        return state
    per_segment = float(np.median(speed[1:]))
    done = int(state.step) // SEGMENT
    segments = max(done + 1, math.ceil(60 * config.minutes / per_segment))
    # Processes that train together measure each its own speed; the first one's counts.
    segments = int(multihost_utils.broadcast_one_to_all(np.int32(segments)))
    total = jax.device_put(np.int32(segments * SEGMENT), sharding)
    return state._replace(total_steps=total)


def _finished(state: TrainState, config: TrainConfig) -> bool:
    total = int(state.total_steps)
    return (total > 0 and int(state.step) >= total) or int(state.since_best) >= config.patience


def _evaluate(task: Task, state: TrainState, held_out: np.ndarray) -> float:
    values = map_images(task.evaluate, _averaged(state), jax.random.key(0), images=held_out)
    return float(np.mean(values, dtype=np.float64))


def _remember_best(state: TrainState, value: float) -> TrainState:
    if value < float(state.best_value):
        return state._replace(
            best=jax.tree.map(jnp.copy, _averaged(state)),
            best_value=np.float32(value),
            since_best=np.int32(0),
        )
    return state._replace(since_best=state.since_best + 1)


def fit_flow(
    module: nn.Module,
    images: np.ndarray,
    config: TrainConfig,
    directory: str | pathlib.Path | None = None,
    *,
    flip: bool = False,
    **options: Any,
) -> Fit:
    """`fit` for a linen flow: maximum likelihood, held out in bits/dim."""
    images = check_images(images, getattr(module, "image_shape", None))
    return fit(flow_task(module, flip=flip), images, config, directory, **options)
