"""Thresholds and p-values with a guarantee: split conformal prediction.

Score n in-distribution (ID) images that nothing was fitted on, the calibration images. A new image
that is ID too, exchangeable with them, is as likely to have any rank among them as any other; so
the share of calibration scores at or above its own is a p-value, whatever the detector, the
distribution of its scores and n are. Equal scores count against flagging, so ties only make it
more conservative.

What the guarantee says: over draws of calibration *and* new images, P(p <= a) <= a. What it does
not: for one calibration set the rate is a little off, by chance (`realised_fpr` says how much);
and images of another camera, year or preprocessing are not exchangeable with the calibration
images, which is what `drift` looks for.

Source: Vovk, Gammerman & Shafer 2005, "Algorithmic learning in a random world"; for outliers, Bates
et al. 2023, "Testing for outliers with conformal p-values".
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ecood.errors import InputError
from ecood.metrics import check_scores

__all__ = ["Drift", "drift", "p_values", "realised_fpr", "threshold"]

EXACT = 20_000_000  # pairs of scores up to which the exact distribution is quick to compute


class Drift(NamedTuple):
    """Whether a batch of images is still like the calibration images.

    Attributes:
      statistic: the largest difference between the two distribution functions of the scores, 0
        to 1; that between the batch's p-values and the uniform distribution, up to one over the
        number of calibration images plus one.
      p_value: how likely a statistic this large is without drift; small means drift.
      n: the number of images in the batch.
    """

    statistic: float
    p_value: float
    n: int


def p_values(calibration: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """(1 + number of calibration scores >= score) / (n + 1).

    Args:
      calibration: float [n], scores of ID images that nothing was fitted on; larger = more OOD.
      scores: float [N], of the images in question.

    Returns:
      float64 [N], multiples of 1 / (n + 1) from there to 1. For an ID image, P(p <= a) <= a for
      every a: equal to floor(a (n + 1)) / (n + 1) without ties, and smaller with them.

    Raises:
      InputError: if either is empty, not one-dimensional, or holds NaN or infinity.
    """
    calibration = np.sort(check_scores("calibration", calibration))
    below = np.searchsorted(calibration, check_scores("scores", scores), side="left")
    return (1 + len(calibration) - below) / (len(calibration) + 1)


def threshold(calibration: ArrayLike, fpr: float) -> float:
    """The score above which an image is flagged: score > threshold if and only if p <= fpr.

    Args:
      calibration: float [n], as for `p_values`.
      fpr: the false-positive rate, the share of ID images that may be flagged, in (0, 1).

    Returns:
      The k-th largest calibration score, k = floor(fpr (n + 1)). Infinity if k = 0, that is if
      fpr < 1 / (n + 1): n images cannot vouch for a rate that small, and nothing is flagged.

    Raises:
      InputError: for wrong scores, or a rate that is not in (0, 1).
    """
    calibration = check_scores("calibration", calibration)
    k = _may_exceed(len(calibration), fpr)
    return float(np.sort(calibration)[-k]) if k else float("inf")


def realised_fpr(n: int, fpr: float, *, level: float = 0.95) -> tuple[float, float]:
    """Where the false-positive rate lies, given one calibration set of n images.

    `threshold` keeps its promise on average over calibration sets. For a given one the rate is a
    draw from Beta(k, n + 1 - k), k = floor(fpr (n + 1)), if no scores are equal.

    Args:
      n: the number of calibration images.
      fpr: the rate asked for.
      level: the share of calibration sets whose rate lies between the two ends.

    Returns:
      (low, high).

    Raises:
      InputError: for numbers out of range.

    Source: Vovk 2012, "Conditional validity of inductive conformal predictors".
    """
    if n < 1 or not 0 < level < 1:
        raise InputError(
            f"n is {n} and level is {level}; expected at least one calibration image and a share "
            "between 0 and 1."
        )
    k = _may_exceed(n, fpr)
    if k == 0:
        return 0.0, 0.0
    tail = (1 - level) / 2
    low, high = stats.beta.ppf([tail, 1 - tail], k, n + 1 - k)
    return float(low), float(high)


def drift(calibration: ArrayLike, scores: ArrayLike) -> Drift:
    """Are a batch's p-values uniform? Kolmogorov-Smirnov, calibration against batch.

    Conformal p-values are discrete, no smaller than uniform ones, and those of one batch share
    their calibration set, so they are not independent: the test against the uniform distribution
    raises false alarms as soon as the batch is large. The two-sample test asks the same question
    of the scores and is exact, ties included, up to n N = 20 million; beyond, its p-value is the
    limit's for large n and N, a few per cent too small.

    Args:
      calibration: float [n], as for `p_values`.
      scores: float [N], of a batch of images; they need to be exchangeable, so not frames of one
        video.

    Returns:
      The statistic and its p-value. A batch drifts if scores are too high *or* too low.

    Raises:
      InputError: if either is empty, not one-dimensional, or holds NaN or infinity.
    """
    calibration = check_scores("calibration", calibration)
    scores = check_scores("scores", scores)
    method = "exact" if len(calibration) * len(scores) <= EXACT else "asymp"
    found = stats.ks_2samp(calibration, scores, method=method)
    return Drift(float(found.statistic), float(found.pvalue), len(scores))


def _may_exceed(n: int, fpr: float) -> int:
    """The largest k with k / (n + 1) <= fpr, exact for decimal rates: 0.07 of 100 is 7."""
    try:
        fine = 0 < fpr < 1
    except TypeError:
        fine = False
    if not fine:
        raise InputError(f"fpr is {fpr!r}; expected a rate between 0 and 1, e.g. 0.05.")
    k = int(fpr * (n + 1)) + 1
    while k / (n + 1) > fpr:
        k -= 1
    return k
