"""Several scorers' states at once that differ in how they score, not in what they measure with."""

from collections.abc import Mapping

import jax
import numpy as np

from ecood import statistics
from ecood.batches import map_images
from ecood.perturb import noise_scale
from ecood.score.forms import score_given
from ecood.score.spem import Detection, SPEMState, aimed, similarities

__all__ = ["detect_together"]


def detect_together(
    states: Mapping[str, SPEMState], key: jax.Array, images: np.ndarray, length: np.ndarray
) -> dict[str, Detection]:
    """`detect` of states that differ in form, lambda, aim, draws and reference alone, by name.

    What they have in common is measured once, by the programs that `measure` takes. Images are
    uint8 [N, H, W, C], and `length` is their `code_length`, float32 [N]; so are all results.
    """
    one, found = next(iter(states.values())), {}

    def bits_at(scales: np.ndarray, draws: statistics.Draws) -> np.ndarray:
        of = statistics.perturbed_bits, one.flow, draws, key
        return map_images(*of, images=(images, scales))

    s = similarities(one, images)
    bits = bits_at(np.zeros_like(s), statistics.Draws())
    for name, state in states.items():
        decides = map_images(aimed, state.aim, key, images=(images, s))
        scales = np.asarray(noise_scale(decides, state.noise_strength))
        perturbed = bits_at(scales, state.draws)
        total = score_given(state.form, state.reference, bits, perturbed, s, length)
        found[name] = Detection(np.asarray(total), s, scales, perturbed, bits, length)
    return found
