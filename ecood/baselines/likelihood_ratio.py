"""Likelihood ratio: what the image has beyond its background statistics."""

from typing import Any, NamedTuple

import jax
import numpy as np

from ecood.baselines.statistics import bits, held_out
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.metrics import auroc
from ecood.score.strength import turned

__all__ = ["RatioState", "likelihood_ratio"]


class RatioState(NamedTuple):
    """The variables of the flow and of the chosen background flow."""

    flow: Any
    background: Any


def likelihood_ratio(flow: Flow, *backgrounds: Flow) -> Detector:
    """log p_background(x) - log p(x) in bits/dim.

    The background flow is trained on mutated ID images (`background.train_background`). The
    paper chooses the mutation rate by its AUROC on a third data set that is OOD. No OOD image is
    used here: of several backgrounds, one a rate, `fit` takes the one whose ratio best tells
    held-out ID images from the same images turned by a quarter, the criterion by which SPEM's
    noise strength is chosen; of equal ones the first.

    Args:
      flow: the density.
      *backgrounds: one flow or more, of one architecture.

    Raises:
      InputError: if there is no background flow, or they differ in more than their values.

    Source: Ren et al. 2019, "Likelihood Ratios for Out-of-Distribution Detection", equation 3.
    """
    shapes = [jax.tree.map(lambda leaf: leaf.shape, b.variables) for b in backgrounds]
    if not backgrounds or any(shape != shapes[0] for shape in shapes):
        raise InputError(
            f"{len(backgrounds)} background flows were given; expected one or more of the same "
            "architecture: train them by ecood.baselines.background.train_background."
        )

    def score(state: RatioState, key: jax.Array, images: jax.Array) -> jax.Array:
        cost = bits(flow, state.flow, key, images)
        return cost - bits(backgrounds[0], state.background, key, images)

    def fit(key: jax.Array, id_images: np.ndarray) -> RatioState:
        states = [RatioState(flow.variables, each.variables) for each in backgrounds]
        if len(states) == 1:
            return states[0]
        images = held_out(id_images)

        def separation(state: RatioState) -> float:
            both = (map_images(score, state, key, images=x) for x in (images, turned(images)))
            return auroc(*both)

        return states[int(np.argmax([separation(state) for state in states]))]

    return Detector(fit, score)
