"""Thresholds and p-values with a guarantee: split conformal prediction.

Score n in-distribution (ID) images that nothing was fitted on, the calibration images.
A new image that is exchangeable with them has every rank among them with the same
probability, so the share of scores at or above its own, itself included, is a p-value:
for any detector, any distribution of scores and any n. Ties make it conservative.

The guarantee is P(p <= a) <= a over draws of calibration *and* new images. For one
given calibration set the rate differs by chance (`realised_fpr`). Images of another
camera, year or preprocessing are not exchangeable with these; `drift` tests for that.

Everywhere `calibration` is their scores, float [n], and larger means more OOD. An
InputError is raised for scores that are empty, not one-dimensional, NaN or infinite,
and for rates and levels out of (0, 1).

Source: Vovk, Gammerman & Shafer 2005, "Algorithmic learning in a random world"; for
outliers, Bates et al. 2023, "Testing for outliers with conformal p-values".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ecood.errors import check_share, check_whole
from ecood.metrics import check_scores

__all__ = [
    "DRIFT_LEVEL",
    "Drift",
    "check_fpr",
    "drift",
    "expected_fpr",
    "p_values",
    "p_values_in_graph",
    "realised_fpr",
    "threshold",
]

DRIFT_LEVEL = 0.01  # p-value below which drift is spoken of
EXACT = 50_000  # scores in all up to which `drift` computes the permutation distribution


class Drift(NamedTuple):
    """Whether a batch of n images is exchangeable with the calibration images.

    `statistic` is the largest difference between the two distribution functions of the
    scores, 0 to 1; `p_value` the probability of one at least this large without drift.
    """

    statistic: float
    p_value: float
    n: int


def p_values(calibration: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """(1 + number of calibration scores >= score) / (n + 1), float64 [N].

    For an ID image, P(p <= a) <= a for every a: equal to floor(a (n + 1)) / (n + 1)
    without ties, and at most that with them.
    """
    calibration = np.sort(check_scores("calibration", calibration))
    below = np.searchsorted(calibration, check_scores("scores", scores), side="left")
    return (1 + len(calibration) - below) / (len(calibration) + 1)


def p_values_in_graph(calibration: jax.Array, scores: jax.Array) -> jax.Array:
    """`p_values` in float32 inside a compiled program; decisions stay the same.

    A float32 quotient may be rounded up: 5 / 100 becomes a number above 0.05. Here each
    value is the largest float32 p32 that is at most the float64 p. Whether it is
    compared with a rate a in float64 or, both rounded, in float32:

    - p <= a implies p32 <= a, as p32 <= p and rounding a to float32 is monotone.
    - p > a implies p32 > a if a has up to three decimals and n is at most 20,000
      (11,000 for rates above 1/2): then p - a >= 1 / (1000 (n + 1)), which exceeds the
      rounding of p, less than one float32 spacing, and that of a, at most half of one.

    The values are looked up by rank, so they do not depend on how a device divides.
    Scores are float32, `calibration` finite and in any order; NaN among `scores` gets
    the smallest p-value.
    """
    n = calibration.shape[0]
    at_or_above = jnp.sum(calibration[None, :] >= scores[:, None], axis=1)
    return jnp.asarray(_float32_at_most(np.arange(1, n + 2) / (n + 1)))[at_or_above]


def threshold(calibration: ArrayLike, fpr: float) -> float:
    """The score above which an image is flagged, as its p-value is at most `fpr` there.

    `fpr` is the share of ID images that may be flagged. The threshold is the k-th
    largest calibration score, k = floor(fpr (n + 1)). Infinity if k = 0, that is if n +
    1 < 1 / fpr: n images cannot guarantee a rate that small, so nothing is flagged.
    """
    calibration = check_scores("calibration", calibration)
    k = _may_exceed(len(calibration), fpr)
    return float(np.sort(calibration)[-k]) if k else float("inf")


def expected_fpr(n: int, fpr: float) -> float:
    """The share of new ID images that n calibration images flag in expectation, without ties.

    It is floor(fpr (n + 1)) / (n + 1): at most `fpr`, and far less for few images.
    """
    return _may_exceed(n, fpr) / (n + 1)


def realised_fpr(n: int, fpr: float, *, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the false-positive rate of one calibration set of n images.

    The guarantee of `threshold` is an average over calibration sets. Without ties the
    rate given the calibration set is distributed as Beta(k, n + 1 - k), k = floor(fpr
    (n + 1)), and a share `level` of them is between the two ends.

    Source: Vovk 2012, "Conditional validity of inductive conformal predictors".
    """
    level = check_share("level", level, "a share between 0 and 1, e.g. 0.95")
    k = _may_exceed(n, fpr)
    if k == 0:
        return 0.0, 0.0
    from scipy import special  # as in `ecood.metrics`

    tail = (1 - level) / 2
    low, high = special.betaincinv(k, n + 1 - k, [tail, 1 - tail])
    return float(low), float(high)


def drift(calibration: ArrayLike, scores: ArrayLike) -> Drift:
    """Is a batch exchangeable with the calibration images? Kolmogorov-Smirnov's test.

    The p-values of one batch share their calibration set, so they are dependent, and
    testing them against the uniform distribution raises false alarms. This test
    compares the scores: a batch drifts if its own, [N], are too high *or* too low. The
    images must be exchangeable with each other, so not frames of one video.

    The p-value is that of the permutation test given the pooled scores, ties included:
    the share of all ways to choose which n of the n + N scores are the calibration's
    whose statistic is at least the observed one. It is exact (but for float64 rounding)
    up to n + N = 50,000. Beyond, it is SciPy's approximation for large samples: without
    ties within 3% for p-values above 0.001, with ties too large.

    Source: Hodges 1958, "The significance probability of the Smirnov two-sample test";
    with ties, Schröer & Trenkler 1995, "Exact and randomization distributions of
    Kolmogorov-Smirnov tests".
    """
    calibration = check_scores("calibration", calibration)
    scores = check_scores("scores", scores)
    n, total = len(calibration), len(calibration) + len(scores)
    values, counts = np.unique(np.concatenate([calibration, scores]), return_counts=True)
    ends = np.cumsum(counts)
    of_calibration = np.searchsorted(np.sort(calibration), values, side="right")
    gap = int(np.max(np.abs(of_calibration * total - ends * n)))  # the statistic times n N
    if gap == 0:
        p_value = 1.0
    elif total <= EXACT:
        p_value = _reach(min(n, total - n), total, ends, gap)
    else:
        from scipy import stats  # half a second, for this alone

        p_value = float(stats.ks_2samp(calibration, scores, method="asymp").pvalue)
    return Drift(gap / (n * (total - n)), p_value, len(scores))


def _reach(n: int, total: int, ends: np.ndarray, gap: int) -> float:
    """P(|i total - t n| >= gap at a t of `ends`), i of the first t of `total` draws being of the n.

    The draws are all scores in ascending order, with n of them chosen at random; the distribution
    functions can be compared only at the ends of groups of ties. One pass over t carries the
    probabilities of all i for which the bound has not been reached, and adds up those that reach
    it, so small p-values keep their relative precision.
    """
    is_end = np.zeros(total + 1, bool)
    is_end[ends] = True
    left = np.arange(n, -1, -1.0)  # of the n, by i
    mass = np.zeros(n + 1)
    mass[0] = 1
    low, high, reached = 0, 0, 0.0  # mass is in [low, high]
    for t, is_end_here in enumerate(is_end[1:].tolist(), start=1):
        # This quotient is exactly 1 where all the rest must be of the n, so that no mass is lost.
        rise = mass[low : high + 1] * (left[low : high + 1] / (total - t + 1))
        mass[low : high + 1] -= rise
        top = min(high + 1, n)
        mass[low + 1 : top + 1] += rise[: top - low]
        high = top
        if is_end_here:
            within = (t * n - gap) // total + 1, (t * n + gap - 1) // total
            if within[0] > low:
                reached += mass[low : within[0]].sum()
                low = within[0]
            if within[1] < high:
                reached += mass[within[1] + 1 : high + 1].sum()
                mass[within[1] + 1 : high + 1] = 0
                high = within[1]
    return float(min(reached, 1.0))


def _float32_at_most(values: np.ndarray) -> np.ndarray:
    """The largest float32 at or below each positive float64."""
    nearest = values.astype(np.float32)
    below = np.nextafter(nearest, np.float32(0))
    return np.where(nearest.astype(np.float64) > values, below, nearest)


def check_fpr(fpr: float) -> float:
    """Refuses what is no false-positive rate in (0, 1)."""
    return check_share("fpr", fpr, "a rate between 0 and 1, e.g. 0.05")


def _may_exceed(n: int, fpr: float) -> int:
    """The largest k with k / (n + 1) <= fpr, exact for decimal rates: 0.07 of 100 is 7."""
    check_whole("n", n)
    fpr = check_fpr(fpr)
    k = int(fpr * (n + 1)) + 1
    while k / (n + 1) > fpr:
        k -= 1
    return k
