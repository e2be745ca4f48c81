"""What a run compiles: the state before the first step, and a segment of steps.

The whole data set lives on the device and is sampled there, so there is no input
pipeline and no host round trip between steps. Parameters are replicated, batches are
sharded and the loss is a mean over the global batch, so one device and eight compute
the same thing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ecood.devices import Placement
from ecood.train.config import TrainConfig
from ecood.train.tasks import Task

__all__ = ["STEPS", "TrainState", "averaged", "make_initial_state", "make_segment"]

STEPS = 25  # of the optimiser, in one call of the compiled segment


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
    total = 0 if config.steps is None else math.ceil(config.steps / STEPS) * STEPS
    copy = functools.partial(jax.tree.map, jnp.copy)

    def initial(batch: jax.Array) -> TrainState:
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

    return jax.jit(initial, out_shardings=placement.everywhere)


@functools.lru_cache(maxsize=16)
def make_segment(
    task: Task, config: TrainConfig, placement: Placement
) -> Callable[[TrainState, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled segment: (state, train [N, ...]) -> (state, means of the metrics)."""
    optimiser = _optimiser(config)

    def segment(state: TrainState, train: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.key(config.seed)
        order = _order(jax.random.fold_in(key, 1), state.step, len(train), config.batch_size)

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


def _optimiser(config: TrainConfig) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.scale_by_adam())


def _learning_rate(config: TrainConfig, step: jax.Array, total: jax.Array) -> jax.Array:
    """Linear warm-up, then half a cosine; while the total is unknown (0), only the warm-up."""
    warm = jnp.minimum(1.0, (step + 1) / config.warmup)
    done = jnp.clip((step - config.warmup) / jnp.maximum(total - config.warmup, 1), 0, 1)
    decay = jnp.where(total > 0, 0.5 * (1 + jnp.cos(jnp.pi * done)), 1.0)
    return config.learning_rate * warm * decay


def _order(key: jax.Array, step: jax.Array, n: int, batch_size: int) -> jax.Array:
    """Indices [STEPS, batch] of the next segment, every epoch a permutation of its own."""
    needed = STEPS * batch_size
    start = step * batch_size
    epoch = start // n
    epochs = epoch + jnp.arange(math.ceil(needed / n) + 1)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(epochs)
    order = jax.vmap(lambda k: jax.random.permutation(k, n))(keys).reshape(-1)
    return jax.lax.dynamic_slice_in_dim(order, start - epoch * n, needed).reshape(STEPS, -1)
