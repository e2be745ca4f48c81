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
    """Each shipped scorer's detection path, in its own form and in the paper's.

    The own form scores the image twice, as it is and perturbed; what similarity and perturbation
    cost in it is seen beside two likelihoods.
    """
    return [row for name in ecood.score.shipped() for row in _path(name)]


def _path(name: str) -> list[dict[str, Any]]:
    scorer = ecood.score.load(name)
    flow, encoder, state = scorer.flow, scorer.encoder, scorer.state
    shape = (2, BATCH_SIZE, *scorer.image_shape)
    images, others = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape), jnp.uint8)
    key = jax.random.key(0)
    likelihood = ecood.score.likelihood(flow)

    def bits(state: Any, images: jax.Array) -> jax.Array:
        return likelihood.score(state.flow, key, images)

    def embed(state: Any, images: jax.Array) -> jax.Array:
        return encoder.embed(state.encoder, images)

    one = jax.jit(lambda state, x, other: (bits(state, x), embed(state, x)))
    two = jax.jit(lambda state, x, other: (bits(state, x), bits(state, other), embed(state, x)))
    whole = jax.jit(ecood.score.detection_path(flow, encoder, scorer.draws, scorer.antithetic))
    papers = state._replace(usual=None)
    measured = []
    for form, its_state, peer, parts in (
        ("own form", state, "likelihood + encoder", one),
        ("own form", state, "two likelihoods + encoder", two),
        ("paper's form", papers, "likelihood + encoder", one),
    ):
        seconds = timing.take_turns(
            lambda its_state=its_state: jax.block_until_ready(whole(its_state, key, images)),
            lambda parts=parts: jax.block_until_ready(parts(state, images, others)),
        )
        what = f"detection path, {name}, {form}, {BATCH_SIZE} images"
        measured.append(timing.row(what, peer, "s", *seconds))
    return measured
