"""From detections to scores, rows, means over seeds, paired comparisons and the page."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ecood import metrics
from ecood.comparison import holm, mean_auroc_difference, paired_auroc_difference
from experiments.benchmark.engine import Found
from experiments.benchmark.sets import IDSet
from experiments.report import estimate, paragraphs, table, title

# By pair, detector and seed: scores of ID and OOD images, float32 [N] and [M].
ByPair = Mapping[tuple[str, str], Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]]
Summary = dict[tuple[str, str, str], dict[str, Any]]  # by ID, OOD, detector


def by_pair(id_set: IDSet, found: Found) -> ByPair:
    """The scores of an ID set by pair, detector and seed."""
    name, scores = id_set.name, {}
    for ood in id_set.oods:
        of = {d: [(s[name]["score"], s[ood]["score"]) for s in seeds] for d, seeds in found.items()}
        scores[name, ood] = of
    return scores


def rows(scores: ByPair) -> list[dict[str, Any]]:
    """One row a pair, detector and seed: what `benchmark.json` holds."""
    return [
        {"id": i, "ood": o, "detector": d} | metrics.evaluate(*one)._asdict() | {"seed": seed}
        for (i, o), detectors in scores.items()
        for d, seeds in detectors.items()
        for seed, one in enumerate(seeds)
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


def compare(scores: ByPair, champion: str) -> list[dict[str, Any]]:
    """AUROC of the champion minus each rival's, seed 0, paired bootstrap, Holm's p over a pair."""
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


def compare_means(scores: ByPair, champion: str) -> list[dict[str, Any]]:
    """The champion's mean AUROC over pairs minus that of each rival that ran on all, seed 0."""
    if not all(champion in detectors for detectors in scores.values()):
        return []
    rivals = set.intersection(*(set(detectors) for detectors in scores.values())) - {champion}
    found = []
    for rival in (name for name in next(iter(scores.values())) if name in rivals):
        both = {names: (of[champion][0], of[rival][0]) for names, of in scores.items()}
        mean = mean_auroc_difference({n: (*ours, *theirs) for n, (ours, theirs) in both.items()})
        found.append({"detector": champion, "rival": rival} | mean._asdict())
    adjusted = holm([one["p_value"] for one in found])
    return [one | {"p_value_holm": float(p)} for one, p in zip(found, adjusted, strict=True)]


def page(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The report as Markdown lines."""
    summary = summarise(rows)
    pairs = list(dict.fromkeys((i, o) for i, o, _ in summary))
    sizes = {(row["id"], row["ood"]): f"{row['n_id']}, {row['n_ood']}" for row in rows}
    best = {pair: max(summary[n]["auroc"] for n in summary if n[:2] == pair) for pair in pairs}
    rivals = {(c["id"], c["ood"], c["rival"]): c for c in result["comparisons"]}
    means = {c["rival"]: c for c in result["mean_comparisons"]}
    champion = title(result["against"])

    def auroc(names: tuple[str, str, str]) -> str:
        one = summary[names]
        mark = "**" if one["auroc"] == best[names[:2]] else ""
        return estimate(one["auroc"], one["auroc_ci"], mark=mark)

    def difference(one: Mapping[str, Any]) -> str:
        low, high = one["interval"]
        star = "*" if one["p_value_holm"] < 0.05 else ""
        return f"{one['difference']:+.3f}{star} [{low:+.3f}, {high:+.3f}]"

    def mean(detector: str, key: str) -> str:
        """Over all pairs, of a detector that ran on them."""
        of = [summary[*pair, detector][key] for pair in pairs if (*pair, detector) in summary]
        return f"{np.mean(of):.3f}" if len(of) == len(pairs) else "not on all"

    def of_pairs(
        what: str, known: Mapping, cell: Callable[..., str], overall: Callable[[str], str]
    ) -> list[str]:
        """A row a detector, a column a pair, and what holds over all of them."""
        body = [
            [
                title(d),
                overall(d),
                *(cell((*p, d)) if (*p, d) in known else "not run" for p in pairs),
            ]
            for d in dict.fromkeys(d for _, _, d in known)
        ]
        return table([what, "mean over pairs", *(f"{i} → {o}" for i, o in pairs)], body)

    missing = [list(m.values()) for m in result["missing"]] or [["none", "", ""]]
    seeds = 1 + max(row["seed"] for row in rows)
    return paragraphs(
        "# Benchmark",
        f"AUROC [95% interval], OOD the positive class; means over {seeds} seeds, the interval "
        "spans DeLong's intervals of all seeds. The best of a pair is bold.",
        of_pairs("detector", summary, auroc, lambda d: mean(d, "auroc")),
        "FPR95 (share of OOD accepted when 95% of ID is):",
        of_pairs(
            "detector",
            summary,
            lambda names: f"{summary[names]['fpr95']:.3f}",
            lambda d: mean(d, "fpr95"),
        ),
        f"Test images (ID, OOD): {'; '.join(f'{i} → {o} {sizes[i, o]}' for i, o in pairs)}.",
        *(f"{name}: {note}" for name, notes in result["notes"].items() for note in notes),
        f"## {champion} against each rival",
        f"AUROC of {champion} minus the rival's on the same images, seed 0, paired bootstrap [95% "
        "interval]; * where Holm's p-value over the pair's rivals is below 0.05. The mean over "
        "pairs has DeLong's interval over the images of all sets, Holm's p-value over the rivals.",
        of_pairs(
            "rival",
            rivals,
            lambda names: difference(rivals[names]),
            lambda d: difference(means[d]) if d in means else "not on all",
        ),
        "## The noise strength",
        "Lambda as chosen on ID images alone, and what its AUROC loses against the best lambda of "
        "the grid for the OOD test images, which is no result. At the scorer's seed.",
        table(["form", "ID → OOD", "lambda", "AUROC", "best", "regret"], _regrets(result)),
        "## Missing",
        table(["ID", "OOD", "why"], missing),
        "likelihood ratio and WAIC need further flows (--background, --member); they are run where "
        "such are shipped or given.",
    )


def _regrets(result: Mapping[str, Any]) -> list[list[str]]:
    """A row a form and pair, and the mean of each form."""
    body, lost = [], {}
    for curve in result["curves"]:
        form, values, grid = title(curve["form"]), np.array(curve["auroc"]), curve["strengths"]
        strength = result["noise_strengths"][curve["id"]][curve["form"]]
        chosen, top = values[np.argmin(np.abs(np.subtract(grid, strength)))], values.argmax()
        lost.setdefault(form, []).append(values[top] - chosen)
        cells = f"{strength:.3g}", f"{chosen:.3f}", f"{values[top]:.3f} at {grid[top]:.3g}"
        body.append([form, f"{curve['id']} → {curve['ood']}", *cells, f"{lost[form][-1]:.3f}"])
    means = {form: f"{np.mean(each):.3f}" for form, each in lost.items()}
    return body + [[form, "mean", "", "", "", mean] for form, mean in means.items()]
