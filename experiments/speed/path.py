"""What detecting costs on top of the likelihood and the embedding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ecood.score
from ecood.batches import BATCH_SIZE
from experiments.speed import timing

__all__ = ["rows"]


def rows() -> list[dict[str, Any]]:
    """Each shipped scorer's detection path, in its own form and in the paper's."""
    return [row for name in ecood.score.shipped() for row in _path(name)]


def _path(name: str) -> list[dict[str, Any]]:
    scorer = ecood.score.load(name)
    flow, encoder, state = scorer.flow, scorer.encoder, scorer.state
    images = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, *scorer.image_shape))
    images, key = jnp.asarray(images, jnp.uint8), jax.random.key(0)
    likelihood = ecood.score.likelihood(flow)

    @jax.jit
    def parts(state: Any, key: jax.Array, images: jax.Array):
        bits = likelihood.score(state.flow, key, images)
        return bits, encoder.embed(state.encoder, images)

    whole = jax.jit(ecood.score.detection_path(flow, encoder, scorer.draws, scorer.antithetic))
    forms = {"own form": state, "paper's form": state._replace(usual=None)}
    measured = []
    for form, its_state in forms.items():
        seconds = timing.take_turns(
            lambda its_state=its_state: jax.block_until_ready(whole(its_state, key, images)),
            lambda: jax.block_until_ready(parts(state, key, images)),
        )
        what = f"detection path, {name}, {form}, {BATCH_SIZE} images"
        measured.append(timing.row(what, "likelihood + encoder", "s", *seconds))
    return measured
