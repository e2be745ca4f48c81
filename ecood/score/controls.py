"""SPEM's two parts alone, and controls that keep the paper's noise but not its aim."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood import memory
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.flows import Flow
from ecood.images import content_keys, hold_out
from ecood.score.spem import detection_path, perturbed_bits, similarity_to, spem_paper

__all__ = ["NoiseState", "constant_noise", "likelihood", "shuffled_noise", "similarity"]


def likelihood(flow: Flow) -> Detector:
    """-log p(x) in bits/dim, no perturbation: `spem_paper` at lambda = 0."""

    def fit(key: jax.Array, id_images: np.ndarray) -> Any:
        del key, id_images
        return flow.variables

    def score(state: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        return perturbed_bits(flow, state, key, images, jnp.zeros(images.shape[0]))

    return Detector(fit, score)


class SimilarityState(NamedTuple):
    """The encoder's variables and the memory bank."""

    encoder: Any
    bank: jax.Array


def similarity(encoder: Encoder) -> Detector:
    """-s(x), no flow: the ranking that `spem_paper` tends to as lambda grows."""

    def fit(key: jax.Array, id_images: np.ndarray) -> SimilarityState:
        del key
        return SimilarityState(encoder.variables, memory.build(encoder, hold_out(id_images)[0]))

    def score(state: SimilarityState, key: jax.Array, images: jax.Array) -> jax.Array:
        del key
        return -similarity_to(encoder, state.encoder, state.bank, images)

    return Detector(fit, score)


class NoiseState(NamedTuple):
    """The flow's variables and the noise scales [M] that the control hands out.

    `fit` takes SPEM's noise scales of held-out ID images. An experiment that wants the very
    scales that SPEM gave to the images under test replaces them (`state._replace(...)`): the
    control then knows more than any detector may, and is still only a control.
    """

    flow: Any
    noise_scales: jax.Array


def constant_noise(flow: Flow, encoder: Encoder, noise_strength: float | str = "auto") -> Detector:
    """SPEM with every image's noise scale replaced by their mean."""

    def score(state: NoiseState, key: jax.Array, images: jax.Array) -> jax.Array:
        scales = jnp.full(images.shape[0], jnp.mean(state.noise_scales))
        return perturbed_bits(flow, state.flow, key, images, scales)

    return Detector(_fit_noise(flow, encoder, noise_strength), score)


def shuffled_noise(flow: Flow, encoder: Encoder, noise_strength: float | str = "auto") -> Detector:
    """SPEM with noise scales dealt out at random, whatever the image's similarity."""

    def score(state: NoiseState, key: jax.Array, images: jax.Array) -> jax.Array:
        keys = content_keys(jax.random.fold_in(key, 2), images)
        picks = jax.vmap(lambda k: jax.random.randint(k, (), 0, state.noise_scales.shape[0]))(keys)
        return perturbed_bits(flow, state.flow, key, images, state.noise_scales[picks])

    return Detector(_fit_noise(flow, encoder, noise_strength), score)


def _fit_noise(flow: Flow, encoder: Encoder, noise_strength: float | str):
    detect = detection_path(flow, encoder)

    def fit(key: jax.Array, id_images: np.ndarray) -> NoiseState:
        state = spem_paper(flow, encoder, noise_strength=noise_strength).fit(key, id_images)
        held_out = hold_out(id_images)[1]
        scales = map_images(detect, state, key, images=held_out).noise_scale
        return NoiseState(flow.variables, jnp.asarray(scales))

    return fit
