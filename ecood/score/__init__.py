"""Scoring images: the detection path, its parts and controls, and the door for users.

scorer = ecood.score.load("fashion_mnist")
scores = scorer(images)  # uint8 [N, H, W, C] -> float32 [N], larger = more OOD
"""

from ecood.score.controls import NoiseState, constant_noise, likelihood, shuffled_noise, similarity
from ecood.score.gain import gain_weight
from ecood.score.scorer import Scorer, fit, load, shipped
from ecood.score.spem import (
    Detection,
    SPEMState,
    detection_path,
    noise_path,
    perturbed_bits,
    perturbed_images,
    spem,
    spem_paper,
    tune,
)
from ecood.score.strength import choose_strength, turned

__all__ = [
    "Detection",
    "NoiseState",
    "SPEMState",
    "Scorer",
    "choose_strength",
    "constant_noise",
    "detection_path",
    "fit",
    "gain_weight",
    "likelihood",
    "load",
    "noise_path",
    "perturbed_bits",
    "perturbed_images",
    "shipped",
    "shuffled_noise",
    "similarity",
    "spem",
    "spem_paper",
    "tune",
    "turned",
]
