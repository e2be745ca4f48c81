"""Several scorers' states at once that differ in how they score, not in what they measure with."""

import functools
from collections.abc import Mapping

import jax
import numpy as np
from jax.tree_util import Partial

from ecood import statistics
from ecood.batches import map_images
from ecood.perturb import noise_scale
from ecood.score.forms import score_given
from ecood.score.spem import PASS, Detection, SPEMState, aimed, similarities
from ecood.statistics import Draws

__all__ = ["detect_together"]


def detect_together(
    states: Mapping[str, SPEMState], key: jax.Array, images: np.ndarray, length: np.ndarray
) -> dict[str, Detection]:
    """`detect` of states that differ in form, lambda, aim, draws and reference alone, by name.

    What they have in common is measured once, by the programs that `measure` takes, and what is
    perturbed alike, too; what is not perturbed is the image itself. Images are uint8
    [N, H, W, C], and `length` is their `code_length`, float32 [N]; so are all results.
    """
    one, found = next(iter(states.values())), {}

    def bits_at(scales: np.ndarray, draws: Draws) -> np.ndarray:
        of = statistics.perturbed_bits, one.flow, draws, key
        return map_images(*of, images=(images, scales), batch_size=PASS)

    @functools.cache
    def perturbed(aim: Partial | None, strength: float, draws: Draws) -> list[np.ndarray]:
        if not strength and draws == Draws():
            return [np.zeros_like(s), bits]
        decides = map_images(aimed, aim, key, images=(images, s))
        scales = np.asarray(noise_scale(decides, np.float32(strength)))
        return [scales, bits_at(scales, draws)]

    s = similarities(one, images)
    bits = bits_at(np.zeros_like(s), Draws())
    for name, state in states.items():
        scales, noisy = perturbed(state.aim, float(state.noise_strength), state.draws)
        total = score_given(state.form, state.reference, bits, noisy, s, length)
        found[name] = Detection(np.asarray(total), s, scales, noisy, bits, length)
    return found
