"""How well scores tell ID from OOD: AUROC with intervals, AUPR both ways, FPR at a TPR.

OOD is the positive class and a larger score means more OOD, everywhere. Every function takes the
scores of the ID images and those of the OOD images, float [N] and [M], and computes in float64.
Equal scores are never told apart: AUROC counts a tie as half, and no threshold falls within one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from ecood.errors import InputError

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
    "normal_quantile",
    "placements",
]


class Metrics(NamedTuple):
    """What a report says about one detector on one pair of data sets.

    Attributes:
      auroc: P(OOD score > ID score) + P(equal) / 2.
      auroc_ci: its 95% interval (low, high), see `auroc_interval`.
      aupr_in: average precision with ID as the positive class.
      aupr_out: average precision with OOD as the positive class.
      fpr95: share of OOD accepted when 95% of ID is accepted, see `fpr_at_tpr`.
      n_id: number of ID scores.
      n_ood: number of OOD scores.
    """

    auroc: float
    auroc_ci: tuple[float, float]
    aupr_in: float
    aupr_out: float
    fpr95: float
    n_id: int
    n_ood: int


def evaluate(id_scores: ArrayLike, ood_scores: ArrayLike) -> Metrics:
    """All metrics at once.

    Args:
      id_scores: float [N].
      ood_scores: float [M].

    Returns:
      The metrics.

    Raises:
      InputError: if either is empty, not one-dimensional, or holds NaN or infinity.
    """
    id_scores, ood_scores = _check(id_scores, ood_scores)
    return Metrics(
        auroc(id_scores, ood_scores),
        auroc_interval(id_scores, ood_scores),
        aupr_in(id_scores, ood_scores),
        aupr_out(id_scores, ood_scores),
        fpr_at_tpr(id_scores, ood_scores),
        len(id_scores),
        len(ood_scores),
    )


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the ROC curve, P(OOD score > ID score) + P(equal) / 2.

    Args:
      id_scores: float [N].
      ood_scores: float [M].

    Returns:
      A number in [0, 1]; 0.5 is chance, and below it the ranking is upside down.

    Raises:
      InputError: if either is empty, not one-dimensional, or holds NaN or infinity.
    """
    _, of_ood = placements(*_check(id_scores, ood_scores))
    return float(of_ood.mean())


def auroc_interval(
    id_scores: ArrayLike, ood_scores: ArrayLike, *, level: float = 0.95
) -> tuple[float, float]:
    """The confidence interval of the AUROC: DeLong's variance on the logit scale.

    The logit keeps the interval within [0, 1] and its coverage close to `level` up to an AUROC of
    0.99, where the plain interval falls short (measured in the tests). Where the sample shows no
    variance (perfect separation, all scores equal, a single image) the interval is Wilson's for
    min(N, M) trials, which allows for the largest variance that any scores with this AUROC have:
    AUROC (1 - AUROC) / min(N, M). So a perfect AUROC on 2,000 images gets [0.998, 1].

    No interval knows of images unlike all in the sample: above 0.999, where a handful of images
    decides, 95% intervals cover about 90%.

    Args:
      id_scores: float [N].
      ood_scores: float [M].
      level: the share of samples whose interval covers the truth.

    Returns:
      (low, high), 0 <= low <= AUROC <= high <= 1.

    Raises:
      InputError: if either is empty, not one-dimensional, or holds NaN or infinity, or if `level`
        is not between 0 and 1.

    Source: DeLong et al. 1988, "Comparing the areas under two or more correlated receiver operating
    characteristic curves"; the logit as in Pepe 2003, section 5.2.5;
    the largest variance from Birnbaum & Klose 1957; Wilson 1927.
    """
    id_scores, ood_scores = _check(id_scores, ood_scores)
    z = normal_quantile(level)
    of_id, of_ood = placements(id_scores, ood_scores)
    area = float(of_ood.mean())
    variance = delong_variance(of_id, of_ood)
    if variance > 0 and 0 < area < 1:
        centre = special.logit(area)
        width = z * np.sqrt(variance) / (area * (1 - area))
        low, high = special.expit([centre - width, centre + width])
    else:
        trials = min(len(id_scores), len(ood_scores))
        centre = (area + z**2 / (2 * trials)) / (1 + z**2 / trials)
        width = np.sqrt(area * (1 - area) / trials + (z / (2 * trials)) ** 2)
        width *= z / (1 + z**2 / trials)
        low, high = centre - width, centre + width
    # Rounding may carry the ends past the estimate or past 0 and 1.
    return float(max(0.0, min(low, area))), float(min(1.0, max(high, area)))


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision with ID as the positive class, ranked by -score.

    Args:
      id_scores: float [N].
      ood_scores: float [M].

    Returns:
      A number in (0, 1]; a random ranking gets about N / (N + M).

    Raises:
      InputError: if either is empty, not one-dimensional, or holds NaN or infinity.

    Source: as `aupr_out`.
    """
    id_scores, ood_scores = _check(id_scores, ood_scores)
    return _average_precision(-id_scores, -ood_scores)


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision with OOD as the positive class.

    The sum over thresholds of (recall gained) × (precision there), which is what scikit-learn's
    `average_precision_score` computes. pytorch-ood and OpenOOD join the points by trapezoids
    instead, which is a little more flattering.

    Args:
      id_scores: float [N].
      ood_scores: float [M].

    Returns:
      A number in (0, 1]; a random ranking gets about M / (N + M).

    Raises:
      InputError: if either is empty, not one-dimensional, or holds NaN or infinity.

    Source: Davis & Goadrich 2006, "The relationship between precision-recall and ROC curves", on
    why the points must not be joined linearly.
    """
    id_scores, ood_scores = _check(id_scores, ood_scores)
    return _average_precision(ood_scores, id_scores)


def fpr_at_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, *, tpr: float = 0.95) -> float:
    """The share of OOD accepted when at least a share `tpr` of ID is accepted.

    An image is accepted if its score is at most a threshold, here the smallest that accepts enough
    ID images. The threshold depends on ID images alone, as in use. pytorch-ood, and OpenOOD in its
    later versions, turn it round: see `fpr_at_ood_tpr`. The two numbers differ; say which one a
    table holds.

    Args:
      id_scores: float [N].
      ood_scores: float [M].
      tpr: the share of ID to accept, in (0, 1].

    Returns:
      A number in [0, 1]; smaller is better.

    Raises:
      InputError: if either is empty, not one-dimensional, or holds NaN or infinity, or if `tpr` is
        not in (0, 1].
    """
    return _error_at_recall(*_check(id_scores, ood_scores), tpr)


def fpr_at_ood_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, *, tpr: float = 0.95) -> float:
    """The share of ID rejected when at least a share `tpr` of OOD is rejected.

    This is the FPR95 of pytorch-ood, and of OpenOOD in its later versions: OOD is the positive
    class there too, so the true positives are OOD images and the false alarms ID images. Its
    threshold is set on OOD images, which a user does not have. For our tables: `fpr_at_tpr`.

    Args:
      id_scores: float [N].
      ood_scores: float [M].
      tpr: the share of OOD to reject, in (0, 1].

    Returns:
      A number in [0, 1]; smaller is better.

    Raises:
      InputError: if either is empty, not one-dimensional, or holds NaN or infinity, or if `tpr` is
        not in (0, 1].
    """
    id_scores, ood_scores = _check(id_scores, ood_scores)
    return _error_at_recall(-ood_scores, -id_scores, tpr)


def placements(id_scores: np.ndarray, ood_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image's share of the other set that is ranked as it should be, ties as half.

    Args:
      id_scores: float64 [N].
      ood_scores: float64 [M].

    Returns:
      For every ID image the share of OOD above it, [N], and for every OOD image the share of ID
      below it, [M]. Both means are the AUROC.

    Source: DeLong et al. 1988; midranks, O((N + M) log(N + M)), as in Sun & Xu 2014, "Fast
    implementation of DeLong's algorithm", equations 5 to 8.
    """
    n, m = len(id_scores), len(ood_scores)
    ranks = stats.rankdata(np.concatenate([id_scores, ood_scores]))
    ood_below = ranks[:n] - stats.rankdata(id_scores)
    id_below = ranks[n:] - stats.rankdata(ood_scores)
    return 1 - ood_below / m, id_below / n


def delong_variance(of_id: np.ndarray, of_ood: np.ndarray) -> float:
    """The variance of an AUROC, or of a difference of two.

    Args:
      of_id: float [N], the ID images' placements, or their differences between two detectors.
      of_ood: float [M], those of the OOD images.

    Returns:
      The variance; 0 if a set of a single image leaves it unknown.

    Source: DeLong et al. 1988.
    """
    if min(len(of_id), len(of_ood)) < 2:
        return 0.0
    return float(of_id.var(ddof=1) / len(of_id) + of_ood.var(ddof=1) / len(of_ood))


def normal_quantile(level: float) -> float:
    """Half the width, in standard errors, of a two-sided normal interval of this level.

    Args:
      level: a share between 0 and 1.

    Returns:
      1.96 for 0.95.

    Raises:
      InputError: if `level` is out of range.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a share between 0 and 1, e.g. 0.95.")
    return float(stats.norm.isf((1 - level) / 2))


def check_scores(name: str, scores: ArrayLike) -> np.ndarray:
    """Scores as float64 [N], or a refusal.

    Args:
      name: what to call them in the message.
      scores: numbers, one an image.

    Returns:
      float64 [N], N >= 1, all finite.

    Raises:
      InputError: if there are none, or one is no finite number.
    """
    try:
        array = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} cannot be read as numbers; expected one float score an image: pass what the "
            "detector returned."
        ) from None
    if array.ndim != 1 or array.size == 0:
        raise InputError(
            f"{name} has shape {list(array.shape)}; expected [N] with N >= 1: one score an image."
        )
    if wrong := int(np.sum(~np.isfinite(array))):
        raise InputError(
            f"{name} holds {wrong} scores that are NaN or infinite, of {array.size}; expected "
            "finite ones: find the images that produce them before judging the detector."
        )
    return array


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    """Average precision of scores, larger for positives, over the distinct thresholds."""
    thresholds = np.unique(positive)[::-1]  # recall grows at these alone
    hits = len(positive) - np.searchsorted(np.sort(positive), thresholds)
    false_alarms = len(negative) - np.searchsorted(np.sort(negative), thresholds)
    recall_gained = np.diff(hits, prepend=0) / len(positive)
    return float(np.sum(recall_gained * hits / (hits + false_alarms)))


def _error_at_recall(accept: np.ndarray, reject: np.ndarray, recall: float) -> float:
    """The share of `reject` at or below the threshold that keeps a share `recall` of `accept`."""
    if not 0 < recall <= 1:
        raise InputError(f"tpr is {recall}; expected a share in (0, 1], e.g. 0.95.")
    # 0.07 * 100 is a little above 7 in floating point; 7 images are meant.
    needed = max(1, int(np.ceil(recall * len(accept) - 1e-9)))
    threshold = np.partition(accept, needed - 1)[needed - 1]
    return float(np.mean(reject <= threshold))


def _check(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    return check_scores("id_scores", id_scores), check_scores("ood_scores", ood_scores)
