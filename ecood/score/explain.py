"""Why an image has its score: terms that add up to it, the nearest images, where the bits are.

explanation = scorer.explain(images)
print(explanation.sentences()[0])
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood import memory, statistics
from ecood.code_length import code_length_map
from ecood.flows import bits_per_dim
from ecood.score.forms import standardised
from ecood.score.spem import Detection, SPEMState, detect

__all__ = ["TERMS", "Explain", "Explanation"]

NOTABLE = 1.5  # interquartile ranges from the median: 1 in 50 of a normal distribution's are beyond

# What each term of a score says where it is large, by its name in `Explanation.terms`.
TERMS = {
    "density": "the flow pays more for it, or for noise on it, than for in-distribution images",
    "dissimilarity": "it is unlike the nearest image of the memory bank",
    "excess": "the flow pays more for it than its own complexity explains",
    "bits": "the flow pays more for it",
    "gain": "noise costs it more bits",
    "perturbed": "the flow pays more for it with noise on it",
}


class Explanation(NamedTuple):
    """What a score is made of, an image a row.

    Attributes:
      detection: the score and what was measured, float32 [B] each.
      terms: by name (`TERMS`), float32 [B] each; their sum is the score.
      standardised: z(b), z(b' - b), z(-s) and, if the score has it, z(b - L): less the medians of
        held-out in-distribution images, in their interquartile ranges; float32 [B, 3 or 4].
      neighbours: rows of the memory bank, the most similar first, int32 [B, k].
      neighbour_similarity: cosine similarity to them, float32 [B, k].
      bits_map: where the flow pays, in bits/dim at each pixel, float32 [B, H, W]; the mean of an
        image's is its b (before the guard, which acts beyond 8 bits/dim). None where the flow's
        log-density is no sum over pixels (`Flow.has_map`).
      code_map: where the universal code pays, float32 [B, H, W]; its mean is L. Where `bits_map`
        exceeds it, the flow finds the image stranger than it is complex.
    """

    detection: Detection
    terms: dict[str, jax.Array]
    standardised: jax.Array
    neighbours: jax.Array
    neighbour_similarity: jax.Array
    bits_map: jax.Array | None
    code_map: jax.Array

    def sentences(self) -> list[str]:
        """The explanation of each image in words, what counts most first."""
        return [_sentence(self, i) for i in range(len(self.neighbours))]


@dataclasses.dataclass(frozen=True)  # compiled once for each number of neighbours
class Explain:
    """`(state, key, images) -> Explanation` with k neighbours; pure, one program."""

    neighbours: int

    def __call__(self, state: SPEMState, key: jax.Array, images: jax.Array) -> Explanation:
        """Explains images, uint8 [B, H, W, C]."""
        found = detect(state, key, images)
        measured = found.bits, found.perturbed_bits, found.similarity, found.code_length
        z = standardised(state.reference, *measured)
        parts = state.form.terms(found.perturbed_bits, z)
        embeddings = statistics.embedded(state.encoder, images)
        nearest = memory.nearest(state.bank, embeddings, max(1, self.neighbours))
        similarity, neighbours = (each[:, : self.neighbours] for each in nearest)
        bits = bits_map(state, key, images) if state.flow.has_map else None
        code = code_length_map(images)
        rows = jnp.stack([row for row in z if row is not None], axis=-1)
        return Explanation(found, parts, rows, neighbours, similarity, bits, code)


def bits_map(state: SPEMState, key: jax.Array, images: jax.Array) -> jax.Array:
    """b at each pixel, float32 [B, H, W]."""
    x = statistics.dequantised(key, images)
    return bits_per_dim(state.flow.log_prob_map(key, x), images.shape[-1:])


def _sentence(explanation: Explanation, i: int) -> str:
    found = Detection(*(np.asarray(part)[i] for part in explanation.detection))
    if not np.isfinite(found.similarity):
        return "The encoder gives NaN or infinity for this image."
    for bits, when in ((found.bits, ""), (found.perturbed_bits, " with noise")):
        if statistics.broken(bits) or not np.isfinite(bits):
            return f"The flow gives NaN or infinity for this image{when}."
    if not explanation.terms:  # of an exported program, which has them not
        return (
            f"{found.bits:.1f} bits/dim, {found.perturbed_bits:.1f} with noise, "
            f"{found.code_length:.1f} in the universal code; similarity {found.similarity:.2f} to "
            "the memory bank."
        )
    z = np.asarray(explanation.standardised)[i]
    bits, gain, unlike = z[:3]
    excess = z[3] if len(z) > 3 else 0.0
    simple = bits < -NOTABLE / 2
    said = {}
    if unlike > NOTABLE:
        said["unlike every image of the bank"] = unlike
    if bits > NOTABLE and bits >= gain:
        said[f"richer than in-distribution images ({found.bits:.1f} bits/dim)"] = bits
    if gain > NOTABLE and gain > bits:
        said["smooth, so that noise costs it much"] = gain
    if excess > NOTABLE:
        known = f"{found.bits:.1f} against {found.code_length:.1f} bits/dim"
        said[f"costs the flow more than its own complexity explains ({known})"] = excess
    words = sorted(said, key=said.get, reverse=True)
    if simple and words:
        words.append("simpler than in-distribution images")
    if not z.any():
        words = [f"{found.perturbed_bits:.1f} bits/dim with noise"]
    if not words:
        words = ["like in-distribution images in all that is measured"]
    nearest = f"similarity {found.similarity:.2f} to the memory bank"
    if explanation.neighbours.shape[1] > 0:
        row, close = explanation.neighbours[i, 0], explanation.neighbour_similarity[i, 0]
        nearest = f"the nearest is image {row} (similarity {close:.2f})"
    text = "; ".join([*words, nearest])
    return text[0].upper() + text[1:] + "."
