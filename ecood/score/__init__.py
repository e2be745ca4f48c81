"""Scoring images: the detection path, its parts and controls, and the door for users.

scorer = ecood.score.load("fashion_mnist")
scores = scorer(images)  # uint8 [N, H, W, C] -> float32 [N], larger = more OOD
"""

from ecood.score.controls import NoiseState, constant_noise, likelihood, shuffled_noise, similarity
from ecood.score.gain import Reference, combined, reference
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
    "Reference",
    "SPEMState",
    "Scorer",
    "choose_strength",
    "combined",
    "constant_noise",
    "detection_path",
    "fit",
    "likelihood",
    "load",
    "noise_path",
    "perturbed_bits",
    "perturbed_images",
    "reference",
    "shipped",
    "shuffled_noise",
    "similarity",
    "spem",
    "spem_paper",
    "tune",
    "turned",
]
