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
    score = ecood.score.likelihood(flow).score

    @jax.jit
    def one(state: Any, images: jax.Array) -> Any:
        return score(state.flow, key, images), encoder.embed(state.encoder, images)

    @jax.jit
    def two(state: Any, images: jax.Array, others: jax.Array) -> Any:
        return one(state, images), score(state.flow, key, others)

    whole = jax.jit(ecood.score.detection_path(flow, encoder, scorer.draws, scorer.antithetic))
    own, papers, likelihood_once, likelihood_twice = timing.take_turns(
        lambda: jax.block_until_ready(whole(state, key, images)),
        lambda: jax.block_until_ready(whole(state._replace(usual=None), key, images)),
        lambda: jax.block_until_ready(one(state, images)),
        lambda: jax.block_until_ready(two(state, images, others)),
    )
    return [
        timing.row(f"detection path, {name}, {form}, {BATCH_SIZE} images", peer, "s", *seconds)
        for form, peer, *seconds in (
            ("own form", "likelihood + encoder", own, likelihood_once),
            ("own form", "two likelihoods + encoder", own, likelihood_twice),
            ("paper's form", "likelihood + encoder", papers, likelihood_once),
        )
    ]
