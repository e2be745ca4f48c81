"""Tasks of a few numbers: what is tested with them is the loop, and they compile in no time."""

import jax
import jax.numpy as jnp
import numpy as np

from ecood.train import Task, TrainConfig

POINTS = np.random.default_rng(0).normal(1.0, 0.5, (200, 3)).astype(np.float32)
TRAIN, HELD_OUT = POINTS[:190], POINTS[190:]
CONFIG = TrainConfig(steps=75, batch_size=16, warmup=10, eval_every=25, learning_rate=0.1)


class Stop(Exception):
    """What interrupts a run."""


def stop_at(step):
    """A `progress` that interrupts the run after this step."""

    def progress(record):
        if record["step"] == step:
            raise Stop

    return progress


def _init(key, points):
    del key
    return {"params": {"mean": jnp.zeros(points.shape[1:])}}


def _loss(variables, key, points):
    noise = 0.1 * jax.random.normal(key, points.shape)
    return jnp.mean(jnp.square(points + noise - variables["params"]["mean"][None])), {}


def _evaluate(variables, key, points):
    del key
    return jnp.mean(jnp.square(points - variables["params"]["mean"][None]), axis=1)


MEAN = Task("the mean of points", _init, _loss, _evaluate)


def slope(loss=None, evaluate=None):
    """One number, w from 3 on, as the loss: all gradients are 1, and Adam's steps the rate."""
    return Task(
        "a slope",
        lambda key, x: {"params": {"w": jnp.float32(3)}},
        loss or (lambda variables, key, x: (variables["params"]["w"], {})),
        evaluate or (lambda variables, key, x: jnp.full(len(x), variables["params"]["w"])),
    )
