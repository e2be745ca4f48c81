"""SPEM, semantic proportional entropy manipulation, from top to bottom.

Of an image x with noise scale sigma(x) = lambda (1 - s(x)) four things are measured:

    s(x)   its similarity to the memory bank, the larger the more in-distribution (ID);
    b(x)   = -log p(x);
    b'(x)  = -E_z[log p(x + sigma(x) z)];
    b'(x) - b(x), the entropy gain, all three in bits/dim.

The paper's score is b' = b + gain. But the two terms say different things. b is large for images
that are richer than the ID ones. The gain is large for images that are both unlike the memory bank
(sigma is large) and smooth (noise costs a smooth image many bits, a rough one few): just those
whose likelihood is misleadingly high. An image is either too rich or too smooth, so in a sum the
one term cancels the other. Hence the recommended form takes the larger of the two, each on the
scale of held-out ID images, and adds how unlike the bank the image is:

    score = max(z(b), z(b' - b)) + z(-s),

z(t) being t less its median over held-out ID images, in units of their interquartile range.

lambda is given, or chosen on held-out ID images alone (`choose_strength`).

Source: Kim & Yoon 2026, arXiv 2602.09581, for the paper's form; the recommended one is ours.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ecood import memory, statistics
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.metrics import auroc
from ecood.perturb import noise_scale
from ecood.splits import Split, check_split
from ecood.stand_ins import turned
from ecood.statistics import LARGEST, UNIFORM_BITS, Draws, Reference, perturbed_bits, similarity

__all__ = [
    "FORMS",
    "GRID",
    "PAPER",
    "RECOMMENDED",
    "Along",
    "Detection",
    "Form",
    "SPEMState",
    "choose_strength",
    "detect",
    "measure",
    "references",
    "score_given",
    "scores_along",
    "spem",
    "spem_paper",
    "tune",
]


# How the statistics make a score -----------------------------------------------------------------


def _recommended(perturbed: jax.Array, z: list[jax.Array]) -> jax.Array:
    """max(z(b), z(b' - b)) + z(-s); the largest float where that is not finite."""
    score = jnp.maximum(z[0], z[1]) + z[2]
    return jnp.clip(jnp.nan_to_num(score, nan=LARGEST), -LARGEST, LARGEST)


def _converged(reference: Reference) -> bool:
    """False if the median perturbed ID image exceeds 8 bits/dim: the flow has diverged."""
    return bool(reference.centre[0] + reference.centre[1] <= UNIFORM_BITS)


class Form(NamedTuple):
    """A combination of the statistics, by its name in a scorer's file.

    `combine(b', [z(b), z(b' - b), z(-s)])` is the score, float32 [B] each; `may_choose`
    tells whether `choose_strength` may take a lambda with this reference.
    """

    name: str
    combine: Callable[[jax.Array, list[jax.Array]], jax.Array]
    may_choose: Callable[[Reference], bool]


RECOMMENDED = Form("recommended", _recommended, _converged)
PAPER = Form("paper", lambda perturbed, z: perturbed, lambda reference: True)
FORMS = {form.name: form for form in (RECOMMENDED, PAPER)}


# From images to the score ------------------------------------------------------------------------


@flax.struct.dataclass
class SPEMState:
    """A fitted SPEM, one pytree: all that decides a score but the noise key.

    The bank is in any form that `ecood.memory` searches. Another noise strength,
    lambda, float32 [], compiles nothing anew. The reference is the scale of b, b' - b
    and -s; `draws` and `form` are static.
    """

    flow: Flow
    encoder: Encoder
    bank: memory.Bank
    noise_strength: jax.Array
    reference: Reference
    draws: Draws = flax.struct.field(pytree_node=False, default=Draws())
    form: Form = flax.struct.field(pytree_node=False, default=RECOMMENDED)


class Detection(NamedTuple):
    """Everything on the way to the score, float32 [B] each.

    Attributes:
      score: what the form makes of the others; larger = more OOD.
      similarity: s, to the most similar image of the bank.
      noise_scale: sigma, in units of the pixel range.
      perturbed_bits: b', bits/dim of the perturbed image, guarded (`ecood.statistics.guard`).
      bits: b, bits/dim of the image itself.
    """

    score: jax.Array
    similarity: jax.Array
    noise_scale: jax.Array
    perturbed_bits: jax.Array
    bits: jax.Array


def detect(state: SPEMState, key: jax.Array, images: jax.Array) -> Detection:
    """The whole path, uint8 [B, H, W, C] to a `Detection`; one pure function, one program."""
    s = similarity(state.encoder, state.bank, images)
    scales = noise_scale(s, state.noise_strength)
    perturbed = perturbed_bits(state.flow, state.draws, key, (images, scales))
    bits = perturbed_bits(state.flow, state.draws, key, (images, jnp.zeros_like(scales)))
    score = score_given(state.form, state.reference, bits, perturbed, s)
    return Detection(score, s, scales, perturbed, bits)


def score_given(
    form: Form, reference: Reference, bits: Any, perturbed: Any, similarity: Any
) -> jax.Array:
    """The score, float32 [B], of what was measured already: b, b' and s [B]."""
    bits, perturbed = jnp.asarray(bits), jnp.asarray(perturbed)
    gain = jnp.clip(perturbed - bits, -LARGEST, LARGEST)
    rows = [bits, gain, -jnp.asarray(similarity)]
    return form.combine(perturbed, statistics.standardise(rows, reference))


# From ID images to the state ---------------------------------------------------------------------

GRID = tuple(float(strength) for strength in np.geomspace(0.01, 10.0, 10))


def tune(
    state: SPEMState, key: jax.Array, held_out: np.ndarray, noise_strength: float | str = "auto"
) -> SPEMState:
    """Sets lambda and the reference on held-out ID images, uint8 [N, H, W, C].

    Neither the flow nor the bank was made from these. The state's own lambda and
    reference do not matter; `noise_strength` is lambda, or "auto" (`choose_strength`).

    Raises:
      InputError: for a noise strength that makes no sense, or fewer than two images.
    """
    check_strength(noise_strength)
    if len(held_out) < 2:
        raise InputError(
            f"{len(held_out)} held-out in-distribution image has no scale; expected at least 2: "
            "give more images."
        )
    if noise_strength != "auto":
        known = measure(state, key, held_out, [float(noise_strength)])
        strength, reference = float(noise_strength), references(known)[0]
    else:
        pair = (measure(state, key, x, GRID) for x in (held_out, turned(held_out)))
        strength, reference = choose_strength(state.form, *pair)
    return state.replace(noise_strength=jnp.float32(strength), reference=reference)


class Along(NamedTuple):
    """Images along lambda: embedded once, scored by the flow at each strength.

    The strengths are [L], the similarity and the bits b float32 [N], b' float32 [L, N].
    """

    strengths: Sequence[float]
    similarity: np.ndarray
    bits: np.ndarray
    perturbed: np.ndarray


def measure(
    state: SPEMState,
    key: jax.Array,
    images: np.ndarray,
    strengths: Sequence[float],
    progress: Callable[[int], None] | None = None,
) -> Along:
    """Measures images, uint8 [N, H, W, C], at noise strengths [L]; all by one program.

    `progress` is called with the number of images done since its last call, (L + 2) N
    in all.
    """
    embed = (similarity, state.encoder, state.bank)
    s = map_images(*embed, images=images, progress=progress)

    def bits_at(strength: float) -> np.ndarray:
        at = (images, np.asarray(noise_scale(s, np.float32(strength))))
        flow_and_key = (state.flow, state.draws, key)
        return map_images(perturbed_bits, *flow_and_key, images=at, progress=progress)

    return Along(strengths, s, bits_at(0.0), np.stack([bits_at(each) for each in strengths]))


def references(held_out: Along) -> list[Reference]:
    """The scale of the statistics at each strength, from held-out ID images."""
    bits = np.float64(held_out.bits)
    rows = [(bits, np.float64(b) - bits, -held_out.similarity) for b in held_out.perturbed]
    return [statistics.reference(each) for each in rows]


def scores_along(form: Form, at: Along, scales: Sequence[Reference]) -> np.ndarray:
    """The scores at each strength, float32 [L, N], given the `references` of held-out images."""
    pairs = zip(scales, at.perturbed, strict=True)
    return np.stack([score_given(form, r, at.bits, b, at.similarity) for r, b in pairs])


def choose_strength(form: Form, held_out: Along, stand_in: Along) -> tuple[float, Reference]:
    """(lambda, its reference) that best tells held-out ID images from turned ones.

    Images turned by a quarter stand in for OOD ones: a likelihood can hardly tell them,
    their meaning is off, and making them takes no data but the ID images. The strength
    with the largest AUROC of `held_out` against `stand_in`, the same images turned, is
    chosen; of equal ones the smallest. The recommended form passes over those at which
    the flow has diverged.

    Source: turned images as outliers, Golan & El-Yaniv 2018, "Deep anomaly detection
    using geometric transformations"; Tack et al. 2020, "CSI".
    """
    scales = references(held_out)
    pairs = zip(*(scores_along(form, at, scales) for at in (held_out, stand_in)), strict=True)
    separation = [
        auroc(*pair) if form.may_choose(scale) else 0.0
        for pair, scale in zip(pairs, scales, strict=True)
    ]
    best = int(np.argmax(separation))
    return held_out.strengths[best], scales[best]


# The detector ------------------------------------------------------------------------------------


def spem(
    flow: Flow,
    encoder: Encoder,
    *,
    noise_strength: float | str = "auto",
    gain: bool = True,
    draws: int = 1,
    antithetic: bool = False,
) -> Detector:
    """SPEM around a flow and an encoder, which stay as they are.

    Args:
      flow: the density, trained on ID images.
      encoder: the semantic encoder.
      noise_strength: lambda, or "auto": chosen by `fit` on held-out ID images alone.
      gain: True for the recommended form, False for the paper's (`spem_paper`).
      draws: noise draws per image, each two passes of the flow (one in the paper's form).
      antithetic: draws come in pairs with opposite noise; `draws` is then even.

    Returns:
      The detector. `fit` embeds the training part of the ID images, and sets lambda and the
      reference on the held-out part; its state is a `SPEMState`.

    Raises:
      InputError: for a noise strength or a number of draws that makes no sense.
    """
    check_strength(noise_strength)
    settings = {"draws": Draws(draws, antithetic), "form": RECOMMENDED if gain else PAPER}

    def fit(key: jax.Array, split: Split) -> SPEMState:
        train, held_out, _ = check_split(split)
        bank = memory.build(encoder, train)
        state = SPEMState(flow, encoder, bank, jnp.float32(0), NO_REFERENCE, **settings)
        return tune(state, key, held_out, noise_strength)

    return Detector(fit, detect)


def spem_paper(flow: Flow, encoder: Encoder, **settings: Any) -> Detector:
    """SPEM as its paper has it: the score is b'; `settings` are those of `spem`."""
    return spem(flow, encoder, gain=False, **settings)


NO_REFERENCE = Reference(np.zeros(3, np.float32), np.zeros(3, np.float32))  # every z is 0


def check_strength(noise_strength: float | str) -> None:
    """Refuses what is neither "auto" nor a finite number >= 0."""
    if noise_strength == "auto":
        return
    try:
        fine = 0 <= float(noise_strength) <= LARGEST
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise InputError(
            f"noise_strength is {noise_strength!r}; expected a finite number >= 0, or 'auto'."
        )
