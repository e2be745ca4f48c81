"""Choosing the noise strength from held-out ID images alone."""

from collections.abc import Callable

import numpy as np

__all__ = ["GRID", "choose_strength", "turned"]

GRID = tuple(float(strength) for strength in np.geomspace(0.01, 10.0, 10))


def turned(images: np.ndarray) -> np.ndarray:
    """The images turned by a quarter, or by a half if they are not square.

    What a turn leaves as it was: colours, contrast, complexity, and so, nearly, the likelihood.
    What it changes: what the image shows.
    """
    square = images.shape[1] == images.shape[2]
    return np.ascontiguousarray(np.rot90(images, 1 if square else 2, axes=(1, 2)))


def choose_strength(separation: Callable[[float], float]) -> float:
    """The lambda that best tells held-out ID images from the same images turned.

    Turned ID images are the stand-in for OOD ones: a likelihood can hardly tell them, their
    meaning is off, and making them takes no data but the ID images. Of ten strengths from 0.01
    to 10 the one with the largest AUROC of held-out against turned held-out images is chosen;
    of equal ones the smallest.

    Args:
      separation: lambda -> AUROC of the scores of held-out ID images against those of the same
        images turned.

    Returns:
      lambda.

    Source: turned images as outliers, Golan & El-Yaniv 2018, "Deep anomaly detection using
    geometric transformations"; Tack et al. 2020, "CSI".
    """
    return GRID[int(np.argmax([separation(strength) for strength in GRID]))]
