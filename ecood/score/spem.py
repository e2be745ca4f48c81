"""The detection path: embed, similarity, noise scale, perturb, log-density, score."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood import memory
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow, bits_per_dim
from ecood.images import content_keys, dequantise, hold_out
from ecood.metrics import auroc
from ecood.perturb import draw, noise_scale
from ecood.score.strength import choose_strength, turned

__all__ = [
    "Detection",
    "SPEMState",
    "detection_path",
    "noise_path",
    "perturbed_bits",
    "perturbed_images",
    "similarity_to",
    "spem",
]

UNIFORM_BITS = 8.0  # bits/dim of any 8-bit image under the uniform density


class SPEMState(NamedTuple):
    """What SPEM needs to score an image; a pytree.

    Attributes:
      flow: the flow's variables.
      encoder: the encoder's variables.
      bank: the memory bank, float32 [N, d].
      noise_strength: lambda, a float32 scalar; `state._replace(noise_strength=...)` moves along
        the curve between likelihood (0) and similarity (large) without recompiling.
    """

    flow: Any
    encoder: Any
    bank: jax.Array
    noise_strength: jax.Array


class Detection(NamedTuple):
    """Everything on the way to the score, float32 [B] each.

    Attributes:
      score: bits/dim of the perturbed image, guarded (see `perturbed_bits`); larger = more OOD.
      similarity: to the nearest image of the bank.
      noise_scale: sigma, in units of the pixel range.
    """

    score: jax.Array
    similarity: jax.Array
    noise_scale: jax.Array


def similarity_to(
    encoder: Encoder, variables: Any, bank: jax.Array, images: jax.Array
) -> jax.Array:
    """s(x): uint8 [B, H, W, C] to the cosine similarity to the nearest bank item, float32 [B]."""
    embeddings = memory.unit_norm(encoder.embed(variables, images).astype(jnp.float32))
    return memory.nearest_similarity(bank, embeddings)


def perturbed_bits(
    flow: Flow,
    variables: Any,
    key: jax.Array,
    images: jax.Array,
    noise_scales: jax.Array,
    draws: int = 1,
    antithetic: bool = False,
) -> jax.Array:
    """Mean bits/dim of dequantised and perturbed images.

    The guard: what a draw costs beyond 8 bits/dim, the cost under the uniform density, counts as
    its logarithm, b -> 8 + log(1 + (b - 8)). A flow's log-density can explode far from its
    data (1e15 bits/dim); the guard keeps the mean over draws finite and, as it is monotone and
    smooth, changes no ranking of single draws. What is not a number counts as the largest float.

    Args:
      flow: the density.
      variables: its variables.
      key: the run's PRNG key.
      images: uint8 [B, H, W, C].
      noise_scales: sigma [B].
      draws: perturbations per image, each with a dequantisation of its own.
      antithetic: draws come in pairs with opposite noise.

    Returns:
      float32 [B], finite.
    """

    def bits(index: jax.Array) -> jax.Array:
        x = perturbed_images(key, images, noise_scales, index, antithetic)
        return guard(bits_per_dim(flow.log_prob(variables, key, x), images.shape[1:]))

    if draws == 1:
        return bits(jnp.int32(0))
    return jnp.mean(jax.lax.map(bits, jnp.arange(draws)), axis=0)


def perturbed_images(
    key: jax.Array,
    images: jax.Array,
    noise_scales: jax.Array,
    index: jax.Array | int = 0,
    antithetic: bool = False,
) -> jax.Array:
    """What the flow is given: the index-th dequantised and perturbed version of each image.

    Args:
      key: the run's PRNG key.
      images: uint8 [B, H, W, C].
      noise_scales: sigma [B].
      index: which draw, from 0.
      antithetic: draws come in pairs with opposite noise.

    Returns:
      float32 [B, H, W, C]; in [0, 1) where sigma is 0.
    """

    def one(key: jax.Array, image: jax.Array, scale: jax.Array) -> jax.Array:
        x = dequantise(jax.random.fold_in(jax.random.fold_in(key, 0), index), image)
        return draw(jax.random.fold_in(key, 1), x, scale, index, antithetic)

    return jax.vmap(one)(content_keys(key, images), images, noise_scales)


def guard(bits: jax.Array) -> jax.Array:
    """B up to 8 bits/dim, 8 + log(1 + b - 8) beyond; NaN counts as the largest float."""
    beyond = UNIFORM_BITS + jnp.log1p(jnp.maximum(bits - UNIFORM_BITS, 0.0))
    guarded = jnp.where(bits > UNIFORM_BITS, beyond, bits)
    largest = jnp.finfo(guarded.dtype).max
    return jnp.nan_to_num(guarded, nan=largest, posinf=largest, neginf=-largest)


def noise_path(flow: Flow, draws: int = 1, antithetic: bool = False):
    """The path from the similarity on, `(state, key, (images, similarity)) -> Detection`.

    The similarity does not depend on lambda or the key: whoever scores the same images at many
    of them embeds once and goes on from here.
    """

    def detect(state: SPEMState, key: jax.Array, seen: tuple[jax.Array, jax.Array]) -> Detection:
        images, similarity = seen
        scales = noise_scale(similarity, state.noise_strength)
        score = perturbed_bits(flow, state.flow, key, images, scales, draws, antithetic)
        return Detection(score, similarity, scales)

    return detect


def detection_path(flow: Flow, encoder: Encoder, draws: int = 1, antithetic: bool = False):
    """The whole path as one pure function, `(state, key, images) -> Detection`."""
    onwards = noise_path(flow, draws, antithetic)

    def detect(state: SPEMState, key: jax.Array, images: jax.Array) -> Detection:
        similarity = similarity_to(encoder, state.encoder, state.bank, images)
        return onwards(state, key, (images, similarity))

    return detect


def spem(
    flow: Flow,
    encoder: Encoder,
    *,
    noise_strength: float | str = "auto",
    draws: int = 1,
    antithetic: bool = False,
) -> Detector:
    """Semantic proportional entropy manipulation.

    score(x) = -E_z[log p(x + sigma(x) z)] in bits/dim, sigma(x) = lambda (1 - s(x)).

    Args:
      flow: the density, trained on ID images; it is not changed.
      encoder: the semantic encoder.
      noise_strength: lambda, or "auto": chosen by `fit` from held-out ID images alone
        (`ecood.score.choose_strength` states the criterion).
      draws: noise draws per image, each one pass of the flow.
      antithetic: draws come in pairs with opposite noise; `draws` is then even.

    Returns:
      The detector. `fit` embeds the training part of the ID images and chooses lambda on the
      held-out part; its state is a `SPEMState`.

    Raises:
      InputError: for a noise strength or a number of draws that makes no sense.

    Source: Kim & Yoon 2026, arXiv 2602.09581.
    """
    check_strength(noise_strength)
    if draws < 1 or (antithetic and draws % 2):
        raise InputError(
            f"draws is {draws}; expected a positive number, even if the draws are antithetic."
        )
    detect = detection_path(flow, encoder, draws, antithetic)
    onwards = noise_path(flow, draws, antithetic)

    def fit(key: jax.Array, id_images: np.ndarray) -> SPEMState:
        train, held_out = hold_out(id_images)
        bank = memory.build(encoder, train)
        state = SPEMState(flow.variables, encoder.variables, bank, jnp.float32(0))
        if noise_strength != "auto":
            return state._replace(noise_strength=jnp.float32(noise_strength))

        known = {"held out": held_out, "turned": turned(held_out)}
        seen = {
            name: (images, map_images(detect, state, key, images=images).similarity)
            for name, images in known.items()
        }

        def separate(strength: float) -> float:
            now = state._replace(noise_strength=jnp.float32(strength))
            return auroc(*(map_images(onwards, now, key, images=s).score for s in seen.values()))

        chosen = choose_strength(separate)
        return state._replace(noise_strength=jnp.float32(chosen))

    def score(state: SPEMState, key: jax.Array, images: jax.Array) -> jax.Array:
        return detect(state, key, images).score

    return Detector(fit, score)


def check_strength(noise_strength: float | str) -> None:
    """Refuses what is neither "auto" nor a finite number >= 0."""
    if noise_strength == "auto":
        return
    try:
        fine = 0 <= float(noise_strength) < float("inf")
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise InputError(
            f"noise_strength is {noise_strength!r}; expected a finite number >= 0, or 'auto'."
        )
