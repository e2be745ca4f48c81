"""Several detectors on several pairs of data sets: rows, means over seeds, paired comparisons.

A champion that ran on no pair is an InputError wherever it is compared with others.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ecood import metrics
from ecood.comparison import holm, paired_auroc_difference
from ecood.errors import InputError
from ecood.over_flows import auroc_over_flows, mean_auroc_difference
from ecood.words import number_of

__all__ = [
    "ByPair",
    "Summary",
    "compare",
    "compare_means",
    "over_flows",
    "rows",
    "spreads",
    "summarise",
]

# By pair, detector and seed or flow: scores of ID and OOD images, float32 [N] and [M].
ByPair = Mapping[tuple[str, str], Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]]
Summary = dict[tuple[str, str, str], dict[str, Any]]  # by ID, OOD, detector


def rows(scores: ByPair) -> list[dict[str, Any]]:
    """A row a pair, detector and seed: their names and number, and all metrics of the scores."""
    return [
        {"id": i, "ood": o, "detector": d} | metrics.evaluate(*one)._asdict() | {"seed": index}
        for (i, o), detectors in scores.items()
        for d, each in detectors.items()
        for index, one in enumerate(each)
    ]


def summarise(rows: Iterable[Mapping[str, Any]]) -> Summary:
    """Means over the seeds; the interval spans those of all seeds."""
    groups, summary = {}, {}
    for row in rows:
        groups.setdefault((row["id"], row["ood"], row["detector"]), []).append(row)
    for names, group in groups.items():
        lows, highs = zip(*(row["auroc_ci"] for row in group), strict=True)
        means = ("auroc", "aupr_in", "aupr_out", "fpr95")
        summary[names] = {key: float(np.mean([row[key] for row in group])) for key in means}
        summary[names]["auroc_ci"] = [min(lows), max(highs)]
    return summary


def spreads(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], float]:
    """By ID, OOD and detector, how far the AUROCs of the seeds are apart."""
    areas: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        areas.setdefault((row["id"], row["ood"], row["detector"]), []).append(row["auroc"])
    return {names: float(np.ptp(each)) for names, each in areas.items()}


def compare(scores: ByPair, champion: str) -> list[dict[str, Any]]:
    """AUROC of the champion minus each rival's, seed 0, paired bootstrap, Holm's p over a pair."""
    _check_ran(scores, champion)
    found = []
    for (i, o), detectors in scores.items():
        rivals = [name for name in detectors if name != champion]
        if champion not in detectors or not rivals:
            continue
        ours = detectors[champion][0]
        differences = [paired_auroc_difference(*ours, *detectors[name][0]) for name in rivals]
        adjusted = holm([difference.p_value for difference in differences])
        for rival, difference, p in zip(rivals, differences, adjusted, strict=True):
            names = {"id": i, "ood": o, "detector": champion, "rival": rival}
            found.append(names | difference._asdict() | {"p_value_holm": float(p)})
    return found


def compare_means(scores: ByPair, champion: str, every: bool = False) -> list[dict[str, Any]]:
    """The champion's mean AUROC over pairs minus that of each rival, if both ran on all.

    Of the first seed, or over `every` flow, as many of each. Holm's p-value is over the rivals.
    """
    _check_ran(scores, champion)
    if not scores or not all(champion in detectors for detectors in scores.values()):
        return []
    rivals = set.intersection(*(set(detectors) for detectors in scores.values())) - {champion}
    found, end = [], None if every else 1
    for rival in (name for name in next(iter(scores.values())) if name in rivals):
        both = {
            names: _paired(names, {each: of[each][:end] for each in (champion, rival)})
            for names, of in scores.items()
        }
        mean = mean_auroc_difference(both)
        found.append({"detector": champion, "rival": rival} | mean._asdict())
    adjusted = holm([one["p_value"] for one in found])
    return [one | {"p_value_holm": float(p)} for one, p in zip(found, adjusted, strict=True)]


def over_flows(retrained: ByPair, champion: str | None) -> dict[str, Any]:
    """What retrained flows say: AUROCs with intervals over flows and images, and differences.

    Differences are from the champion; without one there are none.
    """
    found = [
        {"id": i, "ood": o, "detector": d} | auroc_over_flows(each)._asdict()
        for (i, o), detectors in retrained.items()
        for d, each in detectors.items()
    ]
    means = [] if champion is None else compare_means(retrained, champion, every=True)
    return {"aurocs": found, "mean_comparisons": means}


def _check_ran(scores: ByPair, champion: str) -> None:
    ran = dict.fromkeys(name for detectors in scores.values() for name in detectors)
    if scores and champion not in ran:
        raise InputError(f"{champion} ran on no pair; expected one of {', '.join(ran)}.")


def _paired(
    names: tuple[str, str], two: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]
) -> list[tuple[np.ndarray, ...]]:
    """What two detectors told around each flow, side by side."""
    if len({len(each) for each in two.values()}) > 1:
        told = " and ".join(f"{name} of {number_of(len(of), 'flow')}" for name, of in two.items())
        raise InputError(
            f"there are scores of {told} on {' → '.join(names)}; expected the same flows for both."
        )
    return [(*a, *b) for a, b in zip(*two.values(), strict=True)]
