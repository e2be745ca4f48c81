"""AUROCs over retrained flows: means, and intervals over flows and images together.

Another flow of the same architecture, trained on the same images from another seed, gives another
AUROC, often by more than an interval over images says. These functions take the scores of several
flows on the same test images. The variance of a mean over F flows is

    DeLong's variance of the mean area over the flows (over images) + S² / F (over flows),

S² being the sample variance of the F areas; both contain what flows and images do together, so the
sum is a little too large rather than too small. The interval is Student's, with Satterthwaite's
degrees of freedom: 2 to infinity for three flows, as flows or images make more of the variance.
Where the flows' part dominates, these are estimated too large when S² is too small, so intervals of
95% cover less: simulated with normal estimates, 92% to 94% for three flows, 87% to 93% for two.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ecood.comparison import (
    ROUNDING,
    PairedDifference,
    check_paired,
    check_several,
    difference_interval,
)
from ecood.errors import InputError
from ecood.metrics import check_scores, delong_variance, logit_interval, normal_quantile, placements
from ecood.words import number_of

__all__ = ["OverFlows", "auroc_over_flows", "mean_auroc_difference"]

Pair = tuple[str, str]


class OverFlows(NamedTuple):
    """The mean AUROC over flows, its interval over flows and images, and each flow's AUROC."""

    auroc: float
    interval: tuple[float, float]
    each: tuple[float, ...]


def auroc_over_flows(
    scores: Sequence[tuple[ArrayLike, ArrayLike]], *, level: float = 0.95
) -> OverFlows:
    """The AUROC of a detector around F flows, each with its scores of N ID and M OOD images.

    The interval is on the logit scale, as `ecood.metrics.auroc_interval`'s; where no variance is
    seen it is that function's for min(N, M) trials.

    Raises:
      InputError: for fewer than two flows, scores that are empty, NaN, infinite or of one image,
        other numbers of images for one flow than for another, or a `level` out of range.

    Source: DeLong et al. 1988; Satterthwaite 1946, "An approximate distribution of estimates of
    variance components".
    """
    if len(scores) < 2:
        raise InputError(
            f"scores of {number_of(len(scores), 'flow was', 'flows were')} given; expected two or "
            "more, trained alike from different seeds."
        )
    parts = [
        placements(check_scores("id_scores", i), check_scores("ood_scores", o)) for i, o in scores
    ]
    of_id, of_ood = (_stacked("the detector", each) for each in zip(*parts, strict=True))
    check_several(of_id[0], of_ood[0])
    each = of_ood.mean(axis=1)
    between, within = each.var(ddof=1) / len(each), delong_variance(of_id.mean(0), of_ood.mean(0))
    quantile = _quantile(level, [(between, len(each))], within)
    area, trials = float(each.mean()), min(of_id.shape[1], of_ood.shape[1])
    interval = logit_interval(area, between + within, trials, quantile)
    return OverFlows(area, interval, tuple(each.tolist()))


def mean_auroc_difference(
    pairs: Mapping[Pair, Sequence[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]]],
    *,
    level: float = 0.95,
) -> PairedDifference:
    """The mean over pairs and flows of AUROC of A minus AUROC of B, on the same images and flows.

    `pairs` has, by the names of the ID and the OOD set, a tuple a flow: the four arrays of
    `ecood.comparison.paired_delong_difference`. The flows of an ID set are the same ones in the
    same order in all its pairs, and the images of a set the same ones in the same order, be they ID
    or OOD. A pair's estimate is a mean over ID plus a mean over OOD images, so images that several
    pairs have in common are counted once: their placements are added before the variance is taken.
    A set with more images in one role than in the other is taken for two.
    With one flow the interval is over images alone.

    Raises:
      InputError: for scores that are empty, NaN, infinite or not paired, if there is no pair, a
        pair without a flow or a set with one image, or if an ID set has different numbers of
        flows, or a set different numbers of images, in two pairs.

    Source: DeLong et al. 1988, extended to sums of correlated areas (their section 3);
    Satterthwaite 1946.
    """
    if not pairs:
        raise InputError("there is no pair; expected scores of one or more.")
    by_role: dict[str, dict[str, np.ndarray]] = {"ID": {}, "OOD": {}}
    by_flow: dict[str, np.ndarray] = {}
    for names, flows in pairs.items():
        title = " → ".join(names)
        if not len(flows):
            raise InputError(f"{title} has scores of no flow; expected those of one or more.")
        changes = []
        for one in flows:
            id_a, ood_a, id_b, ood_b = check_paired(*one)
            a, b = placements(id_a, ood_a), placements(id_b, ood_b)
            changes.append([of_a - of_b for of_a, of_b in zip(a, b, strict=True)])
        of_id, of_ood = (_stacked(title, each) / len(pairs) for each in zip(*changes, strict=True))
        _add(by_flow, names[0], of_ood.mean(axis=1), "flows")
        _add(by_role["ID"], names[0], of_id.mean(axis=0), "images")
        _add(by_role["OOD"], names[1], of_ood.mean(axis=0), "images")
    difference = float(sum(each.mean() for each in by_flow.values()))
    several = (each for each in by_flow.values() if len(each) > 1)
    between = [(each.var(ddof=1) / len(each), len(each)) for each in several]
    by_images = _together(by_role["ID"], by_role["OOD"])
    if alone := [name for name, each in by_images if len(each) < 2]:
        raise InputError(f"{alone[0]} has 1 image; expected two or more for a variance.")
    within = sum(each.var(ddof=1) / len(each) for _, each in by_images)
    error = float(np.sqrt(within + sum(variance for variance, _ in between)))
    freedom = _freedom(between, within)
    p_value = float(2 * stats.t.sf(abs(difference) / error, freedom)) if error > ROUNDING else 1.0
    interval = difference_interval(difference, error, _quantile(level, between, within))
    return PairedDifference(difference, interval, p_value)


def _together(
    of_id: Mapping[str, np.ndarray], of_ood: Mapping[str, np.ndarray]
) -> list[tuple[str, np.ndarray]]:
    """The sums of each set's images over both roles; apart if one role lacks some of the images."""
    found = []
    for name in {**of_id, **of_ood}:
        parts = [part[name] for part in (of_id, of_ood) if name in part]
        same = len({len(part) for part in parts}) == 1
        found += [(name, each) for each in ([sum(parts)] if same else parts)]
    return found


def _freedom(between: Sequence[tuple[float, int]], within: float) -> float:
    """Satterthwaite's degrees of freedom; the images' own are taken as infinite."""
    total = within + sum(variance for variance, _ in between)
    uncertain = sum(variance**2 / (flows - 1) for variance, flows in between)
    return total**2 / uncertain if uncertain > 0 else np.inf


def _quantile(level: float, between: Sequence[tuple[float, int]], within: float) -> float:
    normal_quantile(level)  # refuses a level out of range
    return float(stats.t.isf((1 - level) / 2, _freedom(between, within)))


def _add(sums: dict, name: str, values: np.ndarray, what: str) -> None:
    """Adds the values of a pair to those of the pairs with the same set."""
    known = sums.get(name, np.zeros(len(values)))
    if len(known) != len(values):
        raise InputError(
            f"{name} has {len(values)} {what} in one pair and {len(known)} in another; expected "
            "the same in all."
        )
    sums[name] = known + values


def _stacked(title: str, rows: Sequence[np.ndarray]) -> np.ndarray:
    """The flows' rows [F, N]."""
    if len(sizes := sorted({len(row) for row in rows})) > 1:
        raise InputError(
            f"the flows of {title} scored unequal numbers of images, "
            f"{' and '.join(map(str, sizes))}; expected the same images for all."
        )
    return np.stack(rows)
