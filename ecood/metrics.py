"""Metrics of detection: AUROC with intervals, AUPR of both classes, FPR at a TPR.

OOD is the positive class and a larger score means more OOD, everywhere. Every function takes the
scores of the ID images and those of the OOD images, float [N] and [M], computes in float64, and
raises an InputError for scores that are empty, not one-dimensional, NaN or infinite, or for a level
or rate that is out of range.

Ties are never broken: AUROC counts a tie as half, and equal scores are on one side of a threshold.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ecood.errors import InputError, check_share
from ecood.words import number_of

__all__ = [
    "Metrics",
    "aupr_in",
    "aupr_out",
    "auroc",
    "auroc_interval",
    "check_scores",
    "delong_variance",
    "evaluate",
    "fpr_at_ood_tpr",
    "fpr_at_tpr",
    "logit_interval",
    "normal_quantile",
    "placements",
    "roc",
]


class Metrics(NamedTuple):
    """The metrics of one detector on one pair of data sets, with N ID and M OOD scores.

    They are those of the functions with these names; `auroc_ci` is `auroc_interval`'s
    of 95%, `fpr95` is `fpr_at_tpr`'s at 95%.
    """

    auroc: float
    auroc_ci: tuple[float, float]
    aupr_in: float
    aupr_out: float
    fpr95: float
    n_id: int
    n_ood: int


def evaluate(id_scores: ArrayLike, ood_scores: ArrayLike) -> Metrics:
    """All metrics at once."""
    pair = _check(id_scores, ood_scores)
    metrics = (auroc, auroc_interval, aupr_in, aupr_out, fpr_at_tpr)
    return Metrics(*(metric(*pair) for metric in metrics), *map(len, pair))


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the ROC curve, P(OOD score > ID score) + P(equal) / 2, in [0, 1]."""
    _, of_ood = placements(*_check(id_scores, ood_scores))
    return float(of_ood.mean())


def auroc_interval(
    id_scores: ArrayLike, ood_scores: ArrayLike, *, level: float = 0.95
) -> tuple[float, float]:
    """The confidence interval of the AUROC: DeLong's variance on the logit scale.

    Where the sample shows no variance (perfect separation, all scores equal, a single image) the
    interval is Wilson's for min(N, M) trials: AUROC (1 - AUROC) / min(N, M) is the largest variance
    of any scores with this AUROC. So a perfect AUROC on 2,000 images gets [0.998, 1].

    The coverage depends on e = min(N, M) min(AUROC, 1 - AUROC), AUROC the true one: about the
    number of images of the smaller set that are ranked wrongly. Simulated with normal, exponential,
    mixed and unequally wide scores and 20 to 2,000 images a set, 95% intervals cover

    - 93% to 97% of the time where e >= 5, e.g. at 0.9 with 50 images and at 0.99 with 500;
    - 87% to 96% at e = 2, and 80% to 96% at e = 1: the variance rests on a few images, and skewed
      scores make it too small. At 0.98 with 40 + 40 images it is 87% to 95%;
    - as little as 64% below, e.g. at 0.99 with 1,000 ID and 40 OOD images, and 74% to 92% at 0.999
      with 500 + 500.

    Returns:
      (low, high), 0 <= low <= AUROC <= high <= 1; `level` is the share of samples whose interval
      covers the truth.

    Source: DeLong et al. 1988, "Comparing the areas under two or more correlated receiver operating
    characteristic curves"; the logit, Pepe 2003, section 5.2.5; the largest variance, Birnbaum &
    Klose 1957; Wilson 1927.
    """
    id_scores, ood_scores = _check(id_scores, ood_scores)
    z = normal_quantile(level)
    of_id, of_ood = placements(id_scores, ood_scores)
    trials = min(len(id_scores), len(ood_scores))
    return logit_interval(float(of_ood.mean()), delong_variance(of_id, of_ood), trials, z)


def logit_interval(area: float, variance: float, trials: int, z: float) -> tuple[float, float]:
    """The interval of an AUROC of this variance, z standard errors wide to each side.

    It is on the logit scale; Wilson's for so many trials where there is no variance.
    """
    from scipy import special  # a seventh of the time that `import ecood.score` takes

    if variance > 0 and 0 < area < 1:
        centre = special.logit(area)
        width = z * np.sqrt(variance) / (area * (1 - area))
        low, high = special.expit([centre - width, centre + width])
    else:
        centre = (area + z**2 / (2 * trials)) / (1 + z**2 / trials)
        width = np.sqrt(area * (1 - area) / trials + (z / (2 * trials)) ** 2)
        width *= z / (1 + z**2 / trials)
        low, high = centre - width, centre + width
    # Rounding can put an end beyond the estimate, 0 or 1.
    return float(max(0.0, min(low, area))), float(min(1.0, max(high, area)))


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """`aupr_out` with ID as the positive class, ranked by -score; random: N/(N + M)."""
    id_scores, ood_scores = _check(id_scores, ood_scores)
    return _average_precision(-id_scores, -ood_scores)


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision with OOD as the positive class.

    The sum over thresholds of (increase in recall) × (precision), as in scikit-learn's
    `average_precision_score`. pytorch-ood and OpenOOD interpolate linearly between the points
    instead, which gives a slightly larger number. A random ranking gets about M / (N + M).

    Source: Davis & Goadrich 2006, "The relationship between precision-recall and ROC curves", on
    why linear interpolation is wrong.
    """
    id_scores, ood_scores = _check(id_scores, ood_scores)
    return _average_precision(ood_scores, id_scores)


def fpr_at_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, *, tpr: float = 0.95) -> float:
    """The share of OOD accepted when at least a share `tpr` of ID is, `tpr` in (0, 1].

    An image is accepted if its score is at most a threshold, here the smallest that
    accepts enough ID images. pytorch-ood and later versions of OpenOOD set it on OOD
    images instead, which gives another number: `fpr_at_ood_tpr`. Smaller is better.
    """
    return _error_at_recall(*_check(id_scores, ood_scores), tpr)


def fpr_at_ood_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, *, tpr: float = 0.95) -> float:
    """The share of ID rejected when at least a share `tpr` of OOD is, `tpr` in (0, 1].

    The FPR95 of pytorch-ood and of later versions of OpenOOD: its threshold is set on
    OOD images, which are unknown in use. This project's tables hold `fpr_at_tpr`.
    """
    id_scores, ood_scores = _check(id_scores, ood_scores)
    return _error_at_recall(-ood_scores, -id_scores, tpr)


def roc(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve: the shares of ID and of OOD from a threshold on, float64 [T], from 0 to 1.

    A point for each distinct score, and (0, 0); lines between them enclose the AUROC.
    """
    scores = _check(id_scores, ood_scores)
    limits = np.append(np.inf, np.unique(np.concatenate(scores))[::-1])
    of_id, of_ood = (
        1 - np.searchsorted(np.sort(each), limits, "left") / len(each) for each in scores
    )
    return of_id, of_ood


def placements(id_scores: np.ndarray, ood_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of OOD above each ID image, [N], and of ID below each OOD image, [M].

    Ties count as half; both means are the AUROC. Scores are float64 [N] and [M].

    Source: DeLong et al. 1988; in O((N + M) log(N + M)), after Sun & Xu 2014, "Fast
    implementation of DeLong's algorithm".
    """

    def share_below(scores: np.ndarray, of: np.ndarray) -> np.ndarray:
        ordered = np.sort(of)
        twice = sum(np.searchsorted(ordered, scores, side) for side in ("left", "right"))
        return twice / 2 / len(of)

    return 1 - share_below(id_scores, ood_scores), share_below(ood_scores, id_scores)


def delong_variance(of_id: np.ndarray, of_ood: np.ndarray) -> float:
    """The variance of an AUROC, or of a difference of two.

    From the placements [N] and [M], or their differences between two detectors; 0 if a
    set has a single image, which gives no estimate.

    Source: DeLong et al. 1988.
    """
    if min(len(of_id), len(of_ood)) < 2:
        return 0.0
    return float(of_id.var(ddof=1) / len(of_id) + of_ood.var(ddof=1) / len(of_ood))


def normal_quantile(level: float) -> float:
    """Half a normal interval's width in standard errors: 1.96 for a level of 0.95."""
    level = check_share("level", level, "a share between 0 and 1, e.g. 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)


def check_scores(name: str, scores: ArrayLike) -> np.ndarray:
    """Refuses what are no finite scores [N], N >= 1, by their name; float64 [N]."""
    try:
        array = np.asarray(scores)
        if np.ma.is_masked(scores) or array.dtype.kind in "cSUMm":
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{name} cannot be read as numbers; expected one float score per image: pass what the "
            "detector returned."
        ) from None
    if array.ndim != 1 or array.size == 0:
        raise InputError(
            f"{name} has shape {list(array.shape)}; expected [N] with N >= 1: one score per image."
        )
    if wrong := int(np.sum(~np.isfinite(array))):
        raise InputError(
            f"{name} holds {number_of(wrong, 'score that is', 'scores that are')} NaN or infinite, "
            f"of {array.size:,}; expected finite scores: find the images that produce the others."
        )
    return array


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    """Average precision of scores, larger for positives, over the distinct thresholds."""
    thresholds = np.unique(positive)[::-1]  # recall increases at no others
    hits = len(positive) - np.searchsorted(np.sort(positive), thresholds)
    false_alarms = len(negative) - np.searchsorted(np.sort(negative), thresholds)
    recall_gained = np.diff(hits, prepend=0) / len(positive)
    return float(np.sum(recall_gained * hits / (hits + false_alarms)))


def _error_at_recall(accept: np.ndarray, reject: np.ndarray, recall: float) -> float:
    """The share of `reject` at or below the threshold that keeps a share `recall` of `accept`."""
    recall = check_share("tpr", recall, "a share in (0, 1], e.g. 0.95", whole=True)
    # 0.07 * 100 is a little above 7 in floating point; 7 images are meant.
    needed = max(1, int(np.ceil(recall * len(accept) - 1e-9)))
    threshold = np.partition(accept, needed - 1)[needed - 1]
    return float(np.mean(reject <= threshold))


def _check(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    return check_scores("id_scores", id_scores), check_scores("ood_scores", ood_scores)
