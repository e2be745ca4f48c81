"""Paired comparisons of detectors on the same images, and corrections for several of them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ecood.errors import InputError, check_whole
from ecood.keys import check_seed
from ecood.metrics import auroc, check_scores, delong_variance, normal_quantile, placements
from ecood.words import number_of

__all__ = [
    "ROUNDING",
    "PairedDifference",
    "check_paired",
    "check_several",
    "difference_interval",
    "holm",
    "paired_auroc_difference",
    "paired_delong_difference",
]

ROUNDING = 1e-15  # of a standard error; placements that differ give more
CHUNK = 2**20  # resampled scores in memory at a time


class PairedDifference(NamedTuple):
    """AUROC of detector A minus AUROC of detector B on the same images.

    `interval` is its (low, high); `p_value` is two-sided, for equal AUROCs.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float


def paired_auroc_difference(
    id_scores_a: ArrayLike,
    ood_scores_a: ArrayLike,
    id_scores_b: ArrayLike,
    ood_scores_b: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> PairedDifference:
    """AUROC of A minus AUROC of B on the same images, with the percentile bootstrap.

    Each resample draws N ID and M OOD images with replacement and evaluates both
    detectors on them, so what the two have in common cancels. The p-value is twice the
    smaller share of resamples on one side of 0, with one added to both counts; at least
    2 / (resamples + 1). It is too small where few images are ranked wrongly: see
    `paired_delong_difference`.

    Scores are float [N] on the ID and [M] on the OOD images, of both detectors in the
    same order; `level` is the interval's.

    Raises:
      InputError: if scores are empty, not one-dimensional, NaN or infinite, of one image, or not
        paired, or if `level`, `resamples` or `seed` is out of range.

    Source: Efron & Tibshirani 1993, chapters 13 and 16; Davison & Hinkley 1997,
    equation 4.11.
    """
    id_a, ood_a, id_b, ood_b = check_paired(id_scores_a, ood_scores_a, id_scores_b, ood_scores_b)
    check_several(id_a, ood_a)
    normal_quantile(level)  # refuses a level out of range
    check_whole("resamples", resamples)
    levels_a, levels_b = _levels(id_a, ood_a), _levels(id_b, ood_b)
    rng = np.random.default_rng(check_seed(seed))
    differences = []
    step = max(1, CHUNK // (len(id_a) + len(ood_a)))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        of_id = rng.integers(len(id_a), size=(count, len(id_a)))
        of_ood = rng.integers(len(ood_a), size=(count, len(ood_a)))
        areas = [_resampled_auroc(*levels, of_id, of_ood) for levels in (levels_a, levels_b)]
        differences.append(areas[0] - areas[1])
    drawn = np.concatenate(differences)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    # No tolerance for equality: AUROCs are multiples of 1 / (2 N M), so equal ones are identical.
    tail = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    return PairedDifference(
        auroc(id_a, ood_a) - auroc(id_b, ood_b),
        (float(low), float(high)),
        float(min(1.0, 2 * (1 + tail) / (1 + resamples))),
    )


def paired_delong_difference(
    id_scores_a: ArrayLike,
    ood_scores_a: ArrayLike,
    id_scores_b: ArrayLike,
    ood_scores_b: ArrayLike,
    *,
    level: float = 0.95,
) -> PairedDifference:
    """AUROC of A minus AUROC of B on the same images, with DeLong's test.

    Deterministic, and faster than `paired_auroc_difference`. Of pairs of equal AUROC, simulated
    with normal scores, both tests reject 5% at a level of 5% where many images are ranked wrongly,
    e.g. at 0.9 with 500 + 500 images. Where few are, DeLong's rejects fewer and the bootstrap more:
    at 0.95 with 40 + 40 images 4% and 7% to 9%, at 0.99 with 500 + 500 images 5% and 6% to 7%. At
    0.5 DeLong's rejects too many of very few images: 7% with 10 + 10, 10% with 3 + 3.

    Where no variance is seen and the difference is not 0, the p-value is 1. Arguments and errors
    are those of `paired_auroc_difference`.

    Source: DeLong et al. 1988.
    """
    id_a, ood_a, id_b, ood_b = check_paired(id_scores_a, ood_scores_a, id_scores_b, ood_scores_b)
    check_several(id_a, ood_a)
    z = normal_quantile(level)
    of_id_a, of_ood_a = placements(id_a, ood_a)
    of_id_b, of_ood_b = placements(id_b, ood_b)
    difference = float(np.mean(of_ood_a - of_ood_b))
    error = np.sqrt(delong_variance(of_id_a - of_id_b, of_ood_a - of_ood_b))
    p_value = float(2 * special.ndtr(-abs(difference) / error)) if error > ROUNDING else 1.0
    return PairedDifference(difference, difference_interval(difference, error, z), p_value)


def difference_interval(difference: float, error: float, z: float) -> tuple[float, float]:
    """difference +- z error, within [-1, 1], which it is where no variance tells of the error.

    That is so where all images differ by the same amount other than 0, as two or three may.
    """
    if error <= ROUNDING and difference != 0:
        return -1.0, 1.0
    low, high = np.clip([difference - z * error, difference + z * error], -1, 1)
    return float(low), float(high)


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values [K] adjusted for K tests, K >= 0: Holm's step-down correction.

    Rejecting the hypotheses with an adjusted p-value of at most a rejects a true one
    with probability at most a, however the tests depend on each other. In ascending
    order, the i-th is multiplied by K + 1 - i, raised to the largest before it, and cut
    off at 1. The result is in the order given; what is not [K] in [0, 1] is an
    InputError.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    try:
        given = np.asarray(p_values, np.float64)
    except (TypeError, ValueError):
        given = np.array(np.nan)
    if given.ndim != 1 or not np.all((given >= 0) & (given <= 1)):
        raise InputError(
            f"p_values is {p_values!r}; expected [K] numbers between 0 and 1, one per test."
        )
    p_values, order = given, np.argsort(given)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def _levels(id_scores: np.ndarray, ood_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The scores as ranks without gaps, equal for ties, and the number of ranks."""
    distinct, level = np.unique(np.concatenate([id_scores, ood_scores]), return_inverse=True)
    return level[: len(id_scores)], level[len(id_scores) :], len(distinct)


def _resampled_auroc(
    id_level: np.ndarray, ood_level: np.ndarray, levels: int, of_id: np.ndarray, of_ood: np.ndarray
) -> np.ndarray:
    """The AUROC of every resample: indices [R, N] and [R, M] -> [R], without sorting again."""

    def histogram(level: np.ndarray) -> np.ndarray:
        bins = level + levels * np.arange(len(level))[:, None]
        return np.bincount(bins.ravel(), minlength=levels * len(level)).reshape(-1, levels)

    of_level_id, of_level_ood = histogram(id_level[of_id]), histogram(ood_level[of_ood])
    id_below = np.cumsum(of_level_id, axis=1) - of_level_id / 2
    pairs = of_id.shape[1] * of_ood.shape[1]
    return np.einsum("rl,rl->r", id_below, of_level_ood.astype(np.float64)) / pairs


def check_several(id_scores: np.ndarray, ood_scores: np.ndarray) -> None:
    """Refuses one image, which has no variance."""
    if min(len(id_scores), len(ood_scores)) < 2:
        raise InputError(
            f"{len(id_scores)} ID and {len(ood_scores)} OOD scores were given; expected two or "
            "more of each for a variance: score more images."
        )


def check_paired(*scores: ArrayLike) -> tuple[np.ndarray, ...]:
    """Refuses scores of two detectors, ID and OOD of A and of B, that are not of the same images.

    float64 [N], [M], [N], [M].
    """
    names = ("id_scores_a", "ood_scores_a", "id_scores_b", "ood_scores_b")
    checked = tuple(check_scores(name, array) for name, array in zip(names, scores, strict=True))
    for first, second in ((0, 2), (1, 3)):
        if len(checked[first]) != len(checked[second]):
            raise InputError(
                f"{names[first]} has {number_of(len(checked[first]), 'score')} but "
                f"{names[second]} has {len(checked[second]):,}; expected two detectors on the same "
                "images: score both on the same array."
            )
    return checked
