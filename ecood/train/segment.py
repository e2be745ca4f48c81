"""What a run compiles, from its settings: the first state, a segment of steps.

The whole data set lives on the device and is sampled there, without host round trips.
Parameters are replicated and the loss is a mean over the global, sharded batch, so one
device and eight compute the same thing.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from ecood import keys
from ecood.devices import Placement
from ecood.errors import InputError, check_positive, check_share, check_whole
from ecood.train.tasks import Task

__all__ = [
    "STEPS",
    "TrainConfig",
    "TrainState",
    "averaged",
    "make_initial_state",
    "make_segment",
]

RMS = 0.2  # of Adam's updates, about
STEPS = 25  # of the optimiser, at most, in one call of a compiled segment


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train: `steps` or `minutes` bounds the run."""

    steps: int | None = None  # of the optimiser
    # As many steps as fit at the speed of the first segments; fixed then, so that the
    # learning rate has its whole schedule.
    minutes: float | None = None
    batch_size: int = 64  # examples a step, over all devices
    learning_rate: float = 1.5e-3  # the peak; linear warm-up, then cosine to zero
    warmup: int = 200  # steps; a run that is no longer ends while the rate still rises
    clip_norm: float = 100.0  # of the gradient's global norm
    ema_decay: float = 0.998  # of the averaged parameters, evaluated and returned
    eval_every: int = 250  # steps between evaluations on the held-out examples
    patience: int = 20  # evaluations without improvement, after which the run stops
    seed: int = 0  # of initialisation, sampling, dequantisation and augmentation

    def __post_init__(self):
        if (self.steps is None) == (self.minutes is None):
            raise InputError("give either steps or minutes to train for, and not both.")
        if self.steps is None:
            check_positive("minutes", self.minutes)
        else:
            check_whole("steps", self.steps)
            if self.steps >= 2**31:
                raise InputError(f"steps is {self.steps}; expected fewer than 2**31.")
        keys.check_seed(self.seed)
        for name in ("batch_size", "warmup", "eval_every", "patience"):
            check_whole(name, getattr(self, name))
        for name in ("learning_rate", "clip_norm"):
            check_positive(name, getattr(self, name))
        check_share("ema_decay", self.ema_decay, "0 or more, below 1", none=True)


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


def averaged(state: TrainState) -> Any:
    """The variables with averaged parameters, which are evaluated."""
    return {**state.variables, "params": state.ema}


@functools.lru_cache(maxsize=16)  # the same program again for another run of the same kind
def make_initial_state(
    task: Task, config: TrainConfig, placement: Placement
) -> Callable[[jax.Array], TrainState]:
    """The compiled function from a first batch to the state before the first step."""
    copy = functools.partial(jax.tree.map, jnp.copy)

    def initial(batch: jax.Array) -> TrainState:
        variables = task.init(jax.random.fold_in(keys.make(config.seed), 0), batch)
        params = variables["params"]
        return TrainState(
            step=jnp.int32(0),
            total_steps=jnp.int32(config.steps or 0),
            variables=variables,
            ema=copy(params),
            opt_state=_optimiser(task, config).init(params),
            best=copy(variables),
            best_value=jnp.float32(jnp.inf),
            since_best=jnp.int32(0),
        )

    return jax.jit(initial, out_shardings=placement.everywhere)


@functools.lru_cache(maxsize=16)
def make_segment(
    task: Task, config: TrainConfig, placement: Placement, steps: int
) -> Callable[[TrainState, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled segment of steps: (state, train [N, ...]) -> (state, means of the metrics)."""
    optimiser = _optimiser(task, config)

    def segment(state: TrainState, train: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        key = keys.make(config.seed)
        order = _order(jax.random.fold_in(key, 1), state.step, len(train), steps, config.batch_size)

        def body(state: TrainState, indices: jax.Array):
            batch = jax.lax.with_sharding_constraint(train[indices], placement.rows)
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
            rest |= keep(changed, {k: rest[k] for k in changed})
            decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
            ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
            state = state._replace(
                step=state.step + 1,
                variables={"params": params} | rest,
                ema=ema,
                opt_state=keep(opt_state, state.opt_state),
            )
            return state, {"loss": value, "gradient_norm": norm, "skipped": 1.0 - usable}

        state, metrics = jax.lax.scan(body, state, order)
        return state, jax.tree.map(jnp.mean, metrics)

    return jax.jit(segment, donate_argnums=0, out_shardings=placement.everywhere)


def _optimiser(task: Task, config: TrainConfig) -> optax.GradientTransformation:
    """Adam, but Muon for the task's matrices, scaled so that one learning rate suits both.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale
    is that of Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2.
    """
    clip, rule = optax.clip_by_global_norm(config.clip_norm), optax.scale_by_adam()
    if task.matrices is not None:

        def axes(params: Any) -> Any:
            number = contrib.MuonDimensionNumbers
            return jax.tree.map(lambda p: number(p.ndim - 2, p.ndim - 1), params)

        def like_adam(update: jax.Array, _: Any) -> jax.Array:
            return update * (RMS * math.sqrt(max(update.shape[-2:])))

        muon = contrib.scale_by_muon(weight_dimension_numbers=axes)
        muon = optax.chain(muon, optax.stateless_with_tree_map(like_adam))
        rule = optax.partition({True: muon, False: rule}, task.matrices)
    return optax.chain(clip, rule)


def _learning_rate(config: TrainConfig, step: jax.Array, total: jax.Array) -> jax.Array:
    """Linear warm-up, then half a cosine; while the total is unknown (0), only the warm-up."""
    warm = jnp.minimum(1.0, (step + 1) / config.warmup)
    done = jnp.clip((step - config.warmup) / jnp.maximum(total - config.warmup, 1), 0, 1)
    decay = jnp.where(total > 0, 0.5 * (1 + jnp.cos(jnp.pi * done)), 1.0)
    return config.learning_rate * warm * decay


def _order(key: jax.Array, step: jax.Array, n: int, steps: int, batch_size: int) -> jax.Array:
    """Indices [steps, batch] of the next segment, every epoch a permutation of its own."""
    needed = steps * batch_size
    start = step * batch_size
    epoch = start // n
    epochs = epoch + jnp.arange(math.ceil(needed / n) + 1)
    each = jax.vmap(functools.partial(jax.random.fold_in, key))(epochs)
    order = jax.vmap(lambda k: jax.random.permutation(k, n))(each).reshape(-1)
    return jax.lax.dynamic_slice_in_dim(order, start - epoch * n, needed).reshape(steps, -1)
