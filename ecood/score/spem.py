"""The detection path: embed, similarity, noise scale, perturb, log-density, score."""

import functools
from collections.abc import Callable
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
from ecood.score.gain import UNIFORM_BITS, Reference, combined, is_telling, reference
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
    "spem_paper",
    "tune",
]


class SPEMState(NamedTuple):
    """What SPEM needs to score an image; a pytree.

    Attributes:
      flow: the flow's variables.
      encoder: the encoder's variables.
      bank: the memory bank [N, d], in any form that `ecood.memory` searches.
      noise_strength: lambda, a float32 scalar; `state._replace(noise_strength=...)` recompiles
        nothing. In the paper's form it moves along the curve between likelihood (0) and similarity
        (large).
      usual: bits, gain and similarity of held-out ID images, or None for the paper's form.
    """

    flow: Any
    encoder: Any
    bank: jax.Array
    noise_strength: jax.Array
    usual: Reference | None


class Detection(NamedTuple):
    """Everything on the way to the score, float32 [B] each.

    Attributes:
      score: `ecood.score.gain` of the others, or the perturbed_bits alone in the paper's form;
        larger = more OOD.
      similarity: to the nearest image of the bank.
      noise_scale: sigma, in units of the pixel range.
      perturbed_bits: bits/dim of the perturbed image, guarded (see `perturbed_bits`).
      bits: bits/dim of the image itself, or None in the paper's form, which does not need it.
    """

    score: jax.Array
    similarity: jax.Array
    noise_scale: jax.Array
    perturbed_bits: jax.Array
    bits: jax.Array | None


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
    mean = jnp.mean(jax.lax.map(bits, jnp.arange(draws)), axis=0)
    largest = jnp.finfo(mean.dtype).max  # two of which have no finite sum
    return jnp.clip(mean, -largest, largest)


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
    of them embeds once and goes on from here. For the same flow it is the same function, which
    `map_images` compiles once.
    """
    return _noise_path(flow.log_prob, draws, antithetic)


@functools.lru_cache(maxsize=32)
def _noise_path(log_prob: Callable[..., jax.Array], draws: int, antithetic: bool):
    def detect(state: SPEMState, key: jax.Array, seen: tuple[jax.Array, jax.Array]) -> Detection:
        images, similarity = seen
        flow = Flow(log_prob, state.flow)
        scales = noise_scale(similarity, state.noise_strength)

        def bits_at(scales: jax.Array) -> jax.Array:
            return perturbed_bits(flow, state.flow, key, images, scales, draws, antithetic)

        perturbed = bits_at(scales)
        if state.usual is None:
            return Detection(perturbed, similarity, scales, perturbed, None)
        bits = bits_at(jnp.zeros_like(scales))
        score = combined(bits, perturbed, similarity, state.usual)
        return Detection(score, similarity, scales, perturbed, bits)

    return detect


def detection_path(flow: Flow, encoder: Encoder, draws: int = 1, antithetic: bool = False):
    """The whole path as one pure function, `(state, key, images) -> Detection`.

    For the same flow and encoder it is the same function, which `map_images` compiles once.
    """
    return _detection_path(flow.log_prob, encoder.embed, encoder.name, draws, antithetic)


@functools.lru_cache(maxsize=32)
def _detection_path(
    log_prob: Callable[..., jax.Array],
    embed: Callable[..., jax.Array],
    name: str,
    draws: int,
    antithetic: bool,
):
    onwards = _noise_path(log_prob, draws, antithetic)

    def detect(state: SPEMState, key: jax.Array, images: jax.Array) -> Detection:
        encoder = Encoder(embed, state.encoder, name)
        similarity = similarity_to(encoder, state.encoder, state.bank, images)
        return onwards(state, key, (images, similarity))

    return detect


def spem(
    flow: Flow,
    encoder: Encoder,
    *,
    noise_strength: float | str = "auto",
    gain: bool = True,
    draws: int = 1,
    antithetic: bool = False,
) -> Detector:
    """Semantic proportional entropy manipulation.

    With b = -log p(x) and b' = -E_z[log p(x + sigma(x) z)] in bits/dim and
    sigma(x) = lambda (1 - s(x)), the score is the larger of b and the entropy gain b' - b, plus
    -s, each on the scale of held-out ID images (`ecood.score.gain` says why).

    Args:
      flow: the density, trained on ID images; it is not changed.
      encoder: the semantic encoder.
      noise_strength: lambda, or "auto": chosen by `fit` from held-out ID images alone
        (`ecood.score.choose_strength` states the criterion).
      gain: False for the paper's form (`spem_paper`), whose score is b'.
      draws: noise draws per image, each two passes of the flow (one in the paper's form).
      antithetic: draws come in pairs with opposite noise; `draws` is then even.

    Returns:
      The detector. `fit` embeds the training part of the ID images and chooses lambda on
      the held-out part, which is also its reference; its state is a `SPEMState`.

    Raises:
      InputError: for a noise strength or a number of draws that makes no sense.

    Source: Kim & Yoon 2026, arXiv 2602.09581, for the paper's form; the use of the gain is ours.
    """
    check_strength(noise_strength)
    check_draws(draws, antithetic)
    detect = detection_path(flow, encoder, draws, antithetic)
    onwards = noise_path(flow, draws, antithetic)

    def fit(key: jax.Array, id_images: np.ndarray) -> SPEMState:
        train, held_out = hold_out(id_images)
        bank = memory.build(encoder, train)
        state = SPEMState(flow.variables, encoder.variables, bank, jnp.float32(0), None)
        return tune(detect, onwards, state, key, held_out, noise_strength=noise_strength, gain=gain)

    def score(state: SPEMState, key: jax.Array, images: jax.Array) -> jax.Array:
        return detect(state, key, images).score

    return Detector(fit, score)


def spem_paper(flow: Flow, encoder: Encoder, **settings: Any) -> Detector:
    """SPEM as its paper has it: the score is b', the bits/dim of the perturbed image.

    Args:
      flow: the density.
      encoder: the semantic encoder.
      **settings: those of `spem`, without `gain`.
    """
    return spem(flow, encoder, gain=False, **settings)


def tune(
    detect: Callable[..., Detection],
    onwards: Callable[..., Detection],
    state: SPEMState,
    key: jax.Array,
    held_out: np.ndarray,
    *,
    noise_strength: float | str = "auto",
    gain: bool = True,
) -> SPEMState:
    """Sets the noise strength and what is usual on held-out ID images.

    Args:
      detect: the `detection_path`.
      onwards: the `noise_path` of the same flow and draws.
      state: variables and bank.
      key: the run's PRNG key.
      held_out: uint8 [N, H, W, C], ID images that the flow was not trained on.
      noise_strength: lambda, or "auto".
      gain: False for the paper's form.

    Returns:
      The state with lambda and its reference.

    Raises:
      InputError: for a noise strength that makes no sense.
    """
    check_strength(noise_strength)
    if gain and len(held_out) < 2:
        raise InputError(
            f"{len(held_out)} held-out in-distribution image does not tell what is usual; expected "
            "at least 2, so 40 images of which one in 20 is held out, or the paper's form "
            "(gain=False)."
        )
    if not gain and noise_strength != "auto":
        return state._replace(noise_strength=jnp.float32(noise_strength), usual=None)
    still = state._replace(noise_strength=jnp.float32(0), usual=None)
    known = [(x, map_images(detect, still, key, images=x)) for x in (held_out, turned(held_out))]

    def settle(strength: float) -> tuple[Reference | None, list[np.ndarray]]:
        """What is usual at this lambda, and the scores of held-out and turned images."""
        now = still._replace(noise_strength=jnp.float32(strength))
        scores = [
            map_images(onwards, now, key, images=(x, at_rest.similarity)).score
            for x, at_rest in known
        ]
        if not gain:
            return None, scores
        usual = reference(known[0][1].perturbed_bits, scores[0], known[0][1].similarity)
        return usual, [
            np.asarray(combined(at_rest.perturbed_bits, perturbed, at_rest.similarity, usual))
            for (_, at_rest), perturbed in zip(known, scores, strict=True)
        ]

    if noise_strength == "auto":
        noise_strength = choose_strength(lambda strength: _separation(*settle(strength)))
    return state._replace(
        noise_strength=jnp.float32(noise_strength), usual=settle(noise_strength)[0]
    )


def _separation(usual: Reference | None, scores: list[np.ndarray]) -> float:
    """AUROC of held-out against turned images; 0 where the gain of ID images says nothing."""
    return auroc(*scores) if usual is None or is_telling(usual) else 0.0


def check_strength(noise_strength: float | str) -> None:
    """Refuses what is neither "auto" nor a finite number >= 0."""
    if noise_strength == "auto":
        return
    try:
        fine = 0 <= float(noise_strength) <= np.finfo(np.float32).max
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise InputError(
            f"noise_strength is {noise_strength!r}; expected a finite number >= 0, or 'auto'."
        )


def check_draws(draws: int, antithetic: bool) -> None:
    """Refuses a number of draws that cannot be made."""
    if draws < 1 or (antithetic and draws % 2):
        raise InputError(
            f"draws is {draws}; expected a positive number, even if the draws are antithetic."
        )
