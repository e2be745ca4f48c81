"""Scoring images: SPEM (`ecood.score.spem`, one page), its controls, and the door for users.

scorer = ecood.score.load("fashion_mnist")
scores = scorer(images)  # uint8 [N, H, W, C] -> float32 [N], larger = more OOD
"""

from ecood.baselines.likelihood import likelihood
from ecood.baselines.similarity import similarity
from ecood.score.beside import Embeddings
from ecood.score.controls import (
    ABLATIONS,
    NO_NOISE,
    by_contrast,
    constant,
    constant_noise,
    contrast_noise,
    controlled,
    shuffled,
    shuffled_noise,
)
from ecood.score.explain import Explanation
from ecood.score.files import shipped
from ecood.score.forms import FORMS, OF_0_1, PAPER, RECOMMENDED, Form, score_given
from ecood.score.program import Program, load_export
from ecood.score.scorer import Scorer, fit, load
from ecood.score.spem import (
    GRID,
    Along,
    Detection,
    SPEMState,
    choose_strength,
    detect,
    measure,
    references,
    scores_along,
    similarities,
    spem,
    spem_of_form,
    spem_paper,
    tune,
)
from ecood.score.worker import Worker
from ecood.stand_ins import turned

__all__ = [
    "ABLATIONS",
    "FORMS",
    "GRID",
    "NO_NOISE",
    "PAPER",
    "RECOMMENDED",
    "OF_0_1",
    "Along",
    "Detection",
    "Embeddings",
    "Explanation",
    "Form",
    "Program",
    "SPEMState",
    "Scorer",
    "Worker",
    "by_contrast",
    "choose_strength",
    "constant",
    "constant_noise",
    "contrast_noise",
    "controlled",
    "detect",
    "fit",
    "likelihood",
    "load",
    "load_export",
    "measure",
    "references",
    "score_given",
    "scores_along",
    "shipped",
    "shuffled",
    "shuffled_noise",
    "similarities",
    "similarity",
    "spem",
    "spem_of_form",
    "spem_paper",
    "tune",
    "turned",
]
