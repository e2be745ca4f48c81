"""Which images a scorer may be tested on, and in which parts those that made it came.

What a reader must know of the images is added to `notes`, a sentence each.
"""

from typing import Any

import numpy as np

from ecood import splits
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.score.scorer import Scorer

__all__ = ["fresh", "split_of"]


def split_of(
    images: np.ndarray, flow: Flow, encoder: Encoder, fitted_on: Any, notes: list[str]
) -> splits.Split:
    """ID training images in parts as a detector was made from, told by their content.

    Nothing is held out that flow or encoder remember; of a scorer that knows what it was fitted on
    (fingerprints, else None), all other images are left out, and must not be all. The calibration
    part is empty.
    """
    if fitted_on is not None:
        images = images[splits.is_known(images, fitted_on)]
        if not len(images):
            raise InputError("the scorer was fitted to other images; give those, or fit it anew.")
    if flow.trained_on is None:
        notes.append(
            "Which ID images the flow was trained on is not known: those that settings and scales "
            "are taken from are drawn at random, and some may be among them."
        )
    return splits.as_split(images, flow, encoder)


def fresh(images: np.ndarray, scorer: Scorer, name: str, notes: list[str]) -> np.ndarray:
    """The test images that the scorer was not made from, refused if none is; notes the others."""
    used, count = (scorer.flow.trained_on, scorer.encoder.trained_on, scorer.fitted_on), len(images)
    new, what = splits.new_images(images, *used), f"test images of {name}"
    if not len(new):
        raise InputError(f"the scorer was made from all {count} {what}; give others.")
    if dropped := count - len(new):
        notes.append(f"{dropped} {what}, which the scorer knew, were dropped.")
    return new
