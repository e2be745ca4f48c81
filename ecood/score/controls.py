"""Controls: the paper's noise without its aim. What SPEM must beat to owe something to its aim."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ecood.batches import map_images
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.flows import Flow
from ecood.images import content_keys
from ecood.perturb import noise_scale
from ecood.score.spem import spem_paper
from ecood.splits import Split
from ecood.statistics import Draws, perturbed_bits, similarity

__all__ = ["NoiseState", "Perturbed", "constant_noise", "shuffled_noise"]


class NoiseState(NamedTuple):
    """The flow and the noise scales [M] that the control hands out.

    `fit` takes SPEM's of held-out ID images. An experiment that wants the very scales
    that SPEM gave to the images under test replaces them (`state._replace(...)`): such
    a control knows more than any detector may.
    """

    flow: Flow
    noise_scales: jax.Array


class Perturbed(NamedTuple):
    """The score b' in bits/dim, and the noise scale that the image was given; float32 [B]."""

    score: jax.Array
    noise_scale: jax.Array


def constant_noise(flow: Flow, encoder: Encoder, noise_strength: float | str = "auto") -> Detector:
    """The paper's SPEM with every image's noise scale replaced by their mean."""
    return Detector(_fit(flow, encoder, noise_strength), _detect_constant)


def shuffled_noise(flow: Flow, encoder: Encoder, noise_strength: float | str = "auto") -> Detector:
    """The paper's SPEM with noise scales dealt out at random, whatever the image's similarity."""
    return Detector(_fit(flow, encoder, noise_strength), _detect_shuffled)


def _detect_constant(state: NoiseState, key: jax.Array, images: jax.Array) -> Perturbed:
    scales = jnp.full(images.shape[0], jnp.mean(state.noise_scales))
    return Perturbed(perturbed_bits(state.flow, Draws(), key, (images, scales)), scales)


def _detect_shuffled(state: NoiseState, key: jax.Array, images: jax.Array) -> Perturbed:
    keys = content_keys(jax.random.fold_in(key, 2), images)
    count = state.noise_scales.shape[0]
    scales = state.noise_scales[jax.vmap(lambda k: jax.random.randint(k, (), 0, count))(keys)]
    return Perturbed(perturbed_bits(state.flow, Draws(), key, (images, scales)), scales)


def _fit(
    flow: Flow, encoder: Encoder, noise_strength: float | str
) -> Callable[[jax.Array, Split], NoiseState]:
    detector = spem_paper(flow, encoder, noise_strength=noise_strength)

    def fit(key: jax.Array, split: Split) -> NoiseState:
        state = detector.fit(key, split)
        s = map_images(similarity, encoder, state.bank, images=split.held_out)
        return NoiseState(flow, jnp.asarray(noise_scale(s, state.noise_strength)))

    return fit
