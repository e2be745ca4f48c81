"""From scores to rows, means over seeds, paired comparisons and pages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ecood import metrics
from ecood.comparison import paired_auroc_difference

__all__ = ["Scores", "compare", "markdown", "rows", "summarise", "title"]

Pair = tuple[str, str]


class Scores(NamedTuple):
    """One detector's scores of a pair at one seed, float32 [N] and [M]."""

    id: np.ndarray
    ood: np.ndarray


def rows(scores: Mapping[Pair, Mapping[str, Sequence[Scores]]]) -> list[dict[str, Any]]:
    """One row a pair, detector and seed: what `benchmark.json` holds."""
    return [
        {"id": id_name, "ood": ood_name, "detector": detector}
        | {k: v for k, v in metrics.evaluate(*one)._asdict().items()}
        | {"seed": seed}
        for (id_name, ood_name), detectors in scores.items()
        for detector, seeds in detectors.items()
        for seed, one in enumerate(seeds)
    ]


def summarise(table: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By (id, ood, detector): means over the seeds; the interval spans those of all seeds."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in table:
        groups.setdefault((row["id"], row["ood"], row["detector"]), []).append(row)
    return {
        names: {
            **{
                key: float(np.mean([row[key] for row in group]))
                for key in ("auroc", "aupr_in", "aupr_out", "fpr95")
            },
            "auroc_ci": [
                min(row["auroc_ci"][0] for row in group),
                max(row["auroc_ci"][1] for row in group),
            ],
        }
        for names, group in groups.items()
    }


def compare(
    scores: Mapping[Pair, Mapping[str, Sequence[Scores]]], champion: str
) -> list[dict[str, Any]]:
    """AUROC of the champion minus each rival's on the same images, seed 0, paired bootstrap.

    p-values are Holm's over the rivals of a pair.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    found = []
    for (id_name, ood_name), detectors in scores.items():
        if champion not in detectors:
            continue
        ours = detectors[champion][0]
        rivals = [name for name in detectors if name != champion]
        differences = [
            paired_auroc_difference(ours.id, ours.ood, theirs.id, theirs.ood)
            for theirs in (detectors[name][0] for name in rivals)
        ]
        adjusted = _holm([d.p_value for d in differences])
        found += [
            {
                "id": id_name,
                "ood": ood_name,
                "detector": champion,
                "rival": rival,
                "difference": d.difference,
                "interval": list(d.interval),
                "p_value": d.p_value,
                "p_value_holm": p,
            }
            for rival, d, p in zip(rivals, differences, adjusted, strict=True)
        ]
    return found


def _holm(p_values: Sequence[float]) -> list[float]:
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def markdown(result: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> str:
    """The report as a page."""
    summary = summarise(table)
    pairs = list(dict.fromkeys((i, o) for i, o, _ in summary))
    detectors = list(dict.fromkeys(d for _, _, d in summary))
    seeds = 1 + max(row["seed"] for row in table)
    sizes = {(row["id"], row["ood"]): (row["n_id"], row["n_ood"]) for row in table}
    lines = [
        "# Benchmark",
        "",
        f"AUROC [95% interval], OOD the positive class; means over {seeds} seeds, the interval "
        "spans DeLong's intervals of all seeds. The best of a pair is bold.",
        "",
        *_table(
            ["detector", *(f"{i} → {o}" for i, o in pairs)],
            [
                [title(d), *(_auroc_cell(summary, (*pair, d), detectors) for pair in pairs)]
                for d in detectors
            ],
        ),
        "",
        "FPR95 (share of OOD accepted when 95% of ID is):",
        "",
        *_table(
            ["detector", *(f"{i} → {o}" for i, o in pairs)],
            [[title(d), *(_fpr_cell(summary, (*p, d)) for p in pairs)] for d in detectors],
        ),
        "",
        "Test images (ID, OOD): "
        + "; ".join(f"{i} → {o} {sizes[i, o][0]}, {sizes[i, o][1]}" for i, o in pairs)
        + ".",
        "",
        "## SPEM against each rival",
        "",
        "AUROC of SPEM minus the rival's on the same images, seed 0, paired bootstrap [95% "
        "interval]; * where Holm's p-value over the pair's rivals is below 0.05.",
        "",
        *_comparison_table(result["comparisons"], pairs),
        "",
        "## Missing",
        "",
        *_table(
            ["ID", "OOD", "why"],
            [[m["id"], m["ood"], m["reason"]] for m in result["missing"]] or [["none", "", ""]],
        ),
        "",
        "likelihood ratio and WAIC need further flows (--background, --member); they are run where "
        "such are shipped or given.",
        "",
        "Noise strengths, chosen on ID images alone: "
        + "; ".join(
            f"{name}: " + ", ".join(f"{title(form)} {value:.3g}" for form, value in forms.items())
            for name, forms in result["noise_strengths"].items()
        )
        + ".",
        "",
        f"Command: `{result['command']}`, ecood {result['versions']['ecood']}, jax "
        f"{result['versions']['jax']}, git {result['git_revision']}, {result['date']}.",
        "",
    ]
    return "\n".join(lines)


def _comparison_table(comparisons: Sequence[Mapping[str, Any]], pairs: list[Pair]) -> list[str]:
    cells = {(c["id"], c["ood"], c["rival"]): c for c in comparisons}
    rivals = list(dict.fromkeys(c["rival"] for c in comparisons))

    def cell(c: Mapping[str, Any] | None) -> str:
        if c is None:
            return "not run"
        low, high = c["interval"]
        star = "*" if c["p_value_holm"] < 0.05 else ""
        return f"{c['difference']:+.3f}{star} [{low:+.3f}, {high:+.3f}]"

    return _table(
        ["rival", *(f"{i} → {o}" for i, o in pairs)],
        [[title(r), *(cell(cells.get((*pair, r))) for pair in pairs)] for r in rivals],
    )


def _auroc_cell(
    summary: Mapping[tuple[str, str, str], Mapping[str, Any]],
    names: tuple[str, str, str],
    detectors: Sequence[str],
) -> str:
    if names not in summary:
        return "not run"
    one = summary[names]
    best = max(summary[(*names[:2], d)]["auroc"] for d in detectors if (*names[:2], d) in summary)
    bold = "**" if one["auroc"] == best else ""
    low, high = one["auroc_ci"]
    return f"{bold}{one['auroc']:.3f}{bold} [{low:.3f}, {high:.3f}]"


def _fpr_cell(
    summary: Mapping[tuple[str, str, str], Mapping[str, Any]], names: tuple[str, str, str]
) -> str:
    return f"{summary[names]['fpr95']:.3f}" if names in summary else "not run"


def title(name: str) -> str:
    """A detector's name as a reader would write it."""
    return name.replace("_", " ").replace("spem", "SPEM").replace("waic", "WAIC")


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "| " + " | ".join("---" for _ in header) + " |",
        *("| " + " | ".join(row) + " |" for row in body),
    ]
