"""SPEM, semantic proportional entropy manipulation, from top to bottom.

Of an image x with noise scale sigma(x) = lambda (1 - s(x)) five things are measured:

    s(x)   its similarity to the memory bank, the larger the more in-distribution (ID);
    b(x)   = -log p(x);
    b'(x)  = -E_z[log p(x + sigma(x) z)];
    b'(x) - b(x), the entropy gain;
    L(x)   its length in a universal lossless code, all but s in bits/dim.

The paper's score is b' = b + gain. But the two terms say different things. b is large for images
that are richer than the ID ones. The gain is large for images that are both unlike the memory bank
(sigma is large) and smooth (noise costs a smooth image many bits, a rough one few): just those
whose likelihood is misleadingly high. An image is either too rich or too smooth, so in a sum the
one term cancels the other. Hence the recommended form takes the larger of the two. It adds how
much more the flow pays for the image than a code that knows nothing of the ID images, which is
large for what the flow was not made for, however simple, and how unlike the bank the image is:

    score = max(z(b), z(b' - b)) + z(b - L) + z(-s),  no term counted below -1,

z(t) being t less its median over held-out ID images, in units of their interquartile range. The
floor is so that nothing speaks for an image as loud as another term may speak against it: what is
ordinary in one respect, however much so, may be foreign in another.
Entropy is so controlled with both hands: noise raises it where an image is unlike the data, and
b - L takes it out of the account.

lambda is given, or chosen on held-out ID images alone (`choose_strength`).

Source: Kim & Yoon 2026, arXiv 2602.09581, for the paper's form; Serrà et al. 2020 for b - L, with
other codes; the recommended form is ours.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ecood import memory, statistics
from ecood.batches import BATCH_SIZE, map_images
from ecood.code_length import code_length
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.errors import InputError, check_whole
from ecood.flows import Flow
from ecood.images import check_batch
from ecood.metrics import auroc
from ecood.perturb import noise_scale
from ecood.score.forms import PAPER, RECOMMENDED, Form, score_given, statistics_of
from ecood.score.parts import check_alone, check_measured
from ecood.splits import Split, check_split
from ecood.stand_ins import turned
from ecood.statistics import (
    LARGEST,
    Draws,
    Reference,
    bits_as_it_is_and_perturbed,
    perturbed_bits,
    similarity,
)

__all__ = [
    "GRID",
    "NO_REFERENCE",
    "PASS",
    "Along",
    "Detection",
    "SPEMState",
    "aimed",
    "check_strength",
    "choose_strength",
    "detect",
    "measure",
    "references",
    "scores_along",
    "similarities",
    "spem",
    "spem_of_form",
    "spem_paper",
    "that_scores",
    "tune",
]


# From images to the score ------------------------------------------------------------------------


@flax.struct.dataclass
class SPEMState:
    """A fitted SPEM, one pytree: all that decides a score but the noise key.

    The bank is in any form that `ecood.memory` searches. Another noise strength,
    lambda, float32 [], compiles nothing anew. The reference is the scale of b, b' - b,
    -s and b - L; `draws`, `form` and `neighbours`, k of the similarity, are static. `aim` is of
    controls only: a `jax.tree_util.Partial`, aim(key, images, s) -> float32 [B], gives what takes
    the place of s in the noise scale.
    """

    flow: Flow
    encoder: Encoder
    bank: memory.Bank
    noise_strength: jax.Array
    reference: Reference
    draws: Draws = flax.struct.field(pytree_node=False, default=Draws())
    form: Form = flax.struct.field(pytree_node=False, default=RECOMMENDED)
    neighbours: int = flax.struct.field(pytree_node=False, default=1)
    aim: jax.tree_util.Partial | None = None


def that_scores(state: SPEMState) -> SPEMState:
    """Without what its models were trained on, which takes no part in a score."""
    flow, encoder = (model.replace(trained_on=None) for model in (state.flow, state.encoder))
    return state.replace(flow=flow, encoder=encoder)


class Detection(NamedTuple):
    """Everything on the way to the score, float32 [B] each.

    Attributes:
      score: what the form makes of the others; larger = more OOD.
      similarity: s, to the most similar image of the bank, or the mean to the k most similar.
      noise_scale: sigma, in units of the pixel range.
      perturbed_bits: b', bits/dim of the perturbed image, guarded (`ecood.statistics.guard`).
      bits: b, bits/dim of the image itself.
      code_length: L, bits/dim of the image in the universal code.
    """

    score: jax.Array
    similarity: jax.Array
    noise_scale: jax.Array
    perturbed_bits: jax.Array
    bits: jax.Array
    code_length: jax.Array


def detect(state: SPEMState, key: jax.Array, images: jax.Array) -> Detection:
    """The whole path, uint8 [B, H, W, C] to a `Detection`; one pure function, one program.

    Raises `InputError`, when it is traced, for images of another kind and for none.
    """
    check_batch(images)
    s = similarity(state.encoder, state.bank, images, state.neighbours)
    scales = noise_scale(aimed(state.aim, key, (images, s)), state.noise_strength)
    of = state.flow, state.draws, key, (images, scales)
    if state.form == PAPER:  # whose score is b': a pass for b is dropped where nobody asks for it
        bits, perturbed = statistics.bits(state.flow, key, images), perturbed_bits(*of)
    else:
        bits, perturbed = bits_as_it_is_and_perturbed(*of)
    length = code_length(images)
    score = score_given(state.form, state.reference, bits, perturbed, s, length)
    found = Detection(score, s, scales, perturbed, bits, length)
    return Detection(*(part.astype(jnp.float32) for part in found))


def aimed(
    aim: jax.tree_util.Partial | None, key: jax.Array, at: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """What decides each image's noise, float32 [B]: of images and similarities `at`, s itself."""
    images, similarity = at
    return similarity if aim is None else aim(key, images, similarity)


# From ID images to the state ---------------------------------------------------------------------

GRID = tuple(float(strength) for strength in np.geomspace(0.01, 10.0, 10))
PASS = 2 * BATCH_SIZE  # images, as many as pass the flow in `detect`: as they are and perturbed


def tune(
    state: SPEMState, key: jax.Array, held_out: np.ndarray, noise_strength: float | str = "auto"
) -> SPEMState:
    """Sets lambda and the reference on held-out ID images, uint8 [N, H, W, C].

    Neither the flow nor the bank was made from these. The state's own lambda and
    reference do not matter; `noise_strength` is lambda, or "auto" (`choose_strength`).

    Raises:
      InputError: for a noise strength that makes no sense, fewer than two images, or a flow or
        encoder that gives NaN or infinity on even one of them, or something else of an image in
        other company.
    """
    check_strength(noise_strength)
    if len(held_out) < 2:
        raise InputError(
            f"{len(held_out)} held-out in-distribution image has no scale; expected at least 2: "
            "give more images."
        )
    strengths = GRID if noise_strength == "auto" else (float(noise_strength),)
    if noise_strength == "auto" or state.aim is not None:  # a control shares these programs
        measured = functools.partial(measure, state, key)
    else:  # by the program that scores
        state = state.replace(noise_strength=jnp.float32(noise_strength))
        measured = functools.partial(_as_detected, state, key)
    known, alone = measured(held_out, strengths), measured(held_out[:1], strengths[:1])
    check_measured(known, state.encoder.name)
    check_alone(known, alone, state.encoder.name)
    strength, reference = known.strengths[0], references(known)[0]
    if noise_strength == "auto":
        stand_in = measure(state, key, turned(held_out), GRID)
        strength, reference = choose_strength(state.form, known, stand_in)
    return state.replace(noise_strength=jnp.float32(strength), reference=reference)


def _as_detected(
    state: SPEMState, key: jax.Array, images: np.ndarray, strengths: Sequence[float]
) -> "Along":
    """What `detect` measures of images at the state's strength, the one that is given."""
    of = that_scores(state), key
    _, s, _, perturbed, bits, length = map_images(detect, *of, images=images)
    return Along(strengths, s, bits, perturbed[None], length)


class Along(NamedTuple):
    """Images along lambda: embedded once, scored by the flow at each strength.

    The strengths are [L], the similarity, the bits b and the code length float32 [N], b'
    float32 [L, N].
    """

    strengths: Sequence[float]
    similarity: np.ndarray
    bits: np.ndarray
    perturbed: np.ndarray
    code_length: np.ndarray


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
    s = similarities(state, images, progress)
    decides = map_images(aimed, state.aim, key, images=(images, s))

    def bits_at(strength: float, draws: Draws = state.draws) -> np.ndarray:
        at = (images, np.asarray(noise_scale(decides, np.float32(strength))))
        of = perturbed_bits, state.flow, draws, key
        return map_images(*of, images=at, batch_size=PASS, progress=progress)

    perturbed = np.stack([bits_at(each) for each in strengths])
    bits = bits_at(0.0, Draws())  # by the same program, if the strengths have one draw, too
    return Along(strengths, s, bits, perturbed, map_images(code_length, images=images))


def similarities(
    state: SPEMState, images: np.ndarray, progress: Callable[[int], None] | None = None
) -> np.ndarray:
    """s of images, uint8 [N, H, W, C], as `detect` has it, float32 [N]."""
    near = _similarity(state.neighbours)
    return map_images(near, state.encoder, state.bank, images=images, progress=progress)


@functools.cache  # the same function at each call, so that nothing is compiled twice
def _similarity(neighbours: int) -> Callable[..., jax.Array]:
    return functools.partial(similarity, neighbours=neighbours)


def references(held_out: Along) -> list[Reference]:
    """The scale of the statistics at each strength, from held-out ID images."""
    known = map(np.float64, (held_out.bits, held_out.similarity, held_out.code_length))
    bits, similarity, length = known
    rows = (statistics_of(bits, np.float64(b), similarity, length) for b in held_out.perturbed)
    return [statistics.reference(each) for each in rows]


def scores_along(form: Form, at: Along, scales: Sequence[Reference]) -> np.ndarray:
    """The scores at each strength, float32 [L, N], given the `references` of held-out images."""
    pairs, rest = zip(scales, at.perturbed, strict=True), (at.similarity, at.code_length)
    return np.stack([score_given(form, r, at.bits, b, *rest) for r, b in pairs])


def choose_strength(form: Form, held_out: Along, stand_in: Along) -> tuple[float, Reference]:
    """(lambda, its reference) that best tells held-out ID images from turned ones.

    Images turned by a quarter stand in for OOD ones: a likelihood can hardly tell them,
    their meaning is off, and making them takes no data but the ID images. The strength
    with the largest AUROC of `held_out` against `stand_in`, the same images turned, is
    chosen; of equal ones the smallest. Passed over are those at which the density of a
    held-out image is NaN or infinite, and by the recommended form those at which the
    flow has diverged; where that is all of them, the smallest is chosen.

    Source: turned images as outliers, Golan & El-Yaniv 2018, "Deep anomaly detection
    using geometric transformations"; Tack et al. 2020, "CSI".
    """
    scales = references(held_out)
    pairs = zip(*(scores_along(form, at, scales) for at in (held_out, stand_in)), strict=True)
    separation = [
        auroc(*pair) if form.may_choose(b) and not statistics.broken(b).any() else 0.0
        for pair, b in zip(pairs, held_out.perturbed, strict=True)
    ]
    best = int(np.argmax(separation))
    return held_out.strengths[best], scales[best]


# The detector ------------------------------------------------------------------------------------


def spem(flow: Flow, encoder: Encoder, *, gain: bool = True, **settings: Any) -> Detector:
    """SPEM in its recommended form, or with `gain=False` in the paper's; see `spem_of_form`."""
    return spem_of_form(RECOMMENDED if gain else PAPER, flow, encoder, **settings)


def spem_paper(flow: Flow, encoder: Encoder, **settings: Any) -> Detector:
    """SPEM as its paper has it: the score is b'; see `spem_of_form`."""
    return spem_of_form(PAPER, flow, encoder, **settings)


def spem_of_form(
    form: Form,
    flow: Flow,
    encoder: Encoder,
    *,
    noise_strength: float | str = "auto",
    draws: int = 1,
    antithetic: bool = False,
    neighbours: int = 1,
) -> Detector:
    """SPEM around a flow and an encoder, which stay as they are.

    Args:
      form: how the statistics make the score.
      flow: the density, trained on ID images.
      encoder: the semantic encoder.
      noise_strength: lambda, or "auto": chosen by `fit` on held-out ID images alone.
      draws: noise draws per image, each a pass of the flow; the image itself is another.
      antithetic: draws come in pairs with opposite noise; `draws` is then even.
      neighbours: k: s is the mean similarity to the k most similar images of the bank.

    Returns:
      The detector. `fit` embeds the training part of the ID images, and sets lambda and the
      reference on the held-out part; its state is a `SPEMState`.

    Raises:
      InputError: for a noise strength or a number of draws or neighbours that makes no sense.
    """
    check_strength(noise_strength)
    check_whole("neighbours", neighbours)
    settings = {"draws": Draws(draws, antithetic), "form": form, "neighbours": neighbours}

    def fit(key: jax.Array, split: Split) -> SPEMState:
        train, held_out, _ = check_split(split, flow, encoder)
        bank = memory.build(encoder, train)
        state = SPEMState(flow, encoder, bank, jnp.float32(0), NO_REFERENCE, **settings)
        return tune(state, key, held_out, noise_strength)

    return Detector(fit, detect)


NO_REFERENCE = Reference(np.zeros(4, np.float32), np.zeros(4, np.float32))  # every z is 0


def check_strength(noise_strength: float | str) -> None:
    """Refuses what is neither "auto" nor a finite number >= 0."""
    if isinstance(noise_strength, str) and noise_strength == "auto":  # an array is compared whole
        return
    try:
        fine = not isinstance(noise_strength, bool | str) and 0 <= float(noise_strength) <= LARGEST
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise InputError(
            f"noise_strength is {noise_strength!r}; expected a finite number >= 0, or 'auto'."
        )
