"""Likelihood ratio: what the image has beyond its background statistics."""

from typing import NamedTuple

import jax
import numpy as np

from ecood.batches import map_images
from ecood.detector import Detector, Score
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.metrics import auroc
from ecood.splits import Split, held_out_of
from ecood.stand_ins import turned
from ecood.statistics import bits, guarded_ratio

__all__ = ["RatioScored", "RatioState", "likelihood_ratio"]


class RatioState(NamedTuple):
    """The flow and the chosen background flow."""

    flow: Flow
    background: Flow


class RatioScored(NamedTuple):
    """The score and its terms, -log p and -log p_background; bits/dim, float32 [B]."""

    score: jax.Array
    bits: jax.Array
    background_bits: jax.Array


def likelihood_ratio(flow: Flow, *backgrounds: Flow) -> Detector:
    """log p_background(x) - log p(x) in bits/dim; an InputError without a background.

    The background flow is trained on mutated ID images (`background.train_background`).
    The paper chooses the mutation rate and the weight decay from a grid by the AUROC on
    a third, OOD data set. No OOD image is used here: of several backgrounds, one for
    each pair of `background.MUTATION_RATES` and `WEIGHT_DECAYS`, `fit` takes the one
    whose ratio best tells held-out ID images from the same images turned by a quarter,
    the criterion by which SPEM's noise strength is chosen; of equal ones the first.

    Source: Ren et al. 2019, "Likelihood Ratios for Out-of-Distribution Detection",
    equation 3.
    """
    if not backgrounds:
        raise InputError(
            "no background flow was given; expected one or more: train them by "
            "ecood.baselines.background.train_background."
        )

    def fit(key: jax.Array, split: Split) -> RatioState:
        states = [RatioState(flow, background) for background in backgrounds]
        if len(states) == 1:
            return states[0]
        images = held_out_of(split, flow, *backgrounds)

        def separation(state: RatioState) -> float:
            pair = (images, turned(images))
            return auroc(*(map_images(Score(_detect), state, key, images=x) for x in pair))

        return states[int(np.argmax([separation(state) for state in states]))]

    return Detector(fit, _detect)


def _detect(state: RatioState, key: jax.Array, images: jax.Array) -> RatioScored:
    cost, background = bits(state.flow, key, images), bits(state.background, key, images)
    return RatioScored(guarded_ratio(cost, background), cost, background)
