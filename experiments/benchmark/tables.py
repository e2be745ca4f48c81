"""The page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ecood import score
from ecood.evaluation.engine import regret
from ecood.pairs import Summary, spreads, summarise
from experiments.report import estimate, paragraphs, table, title


def page(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The report as Markdown lines."""
    summary = summarise(rows)
    pairs = list(dict.fromkeys((i, o) for i, o, _ in summary))
    sizes = {(row["id"], row["ood"]): f"{row['n_id']}, {row['n_ood']}" for row in rows}
    rivals = {(c["id"], c["ood"], c["rival"]): c for c in result["comparisons"]}
    means = {c["rival"]: _difference(c) for c in result["mean_comparisons"]}
    champion = title(result["against"])
    best = {p: max(one["auroc"] for n, one in summary.items() if n[:2] == p) for p in pairs}

    def auroc(names: tuple[str, str, str]) -> str:
        one = summary[names]
        mark = "**" if one["auroc"] == best[names[:2]] else ""
        return estimate(one["auroc"], one["auroc_ci"], mark=mark)

    missing = [list(m.values()) for m in result["missing"]] or [["none", "", ""]]
    seeds = 1 + max(row["seed"] for row in rows)
    several = f"; means over {seeds} noise seeds, the interval spans those of all seeds"
    several = several + _spread(rows) if seeds > 1 else ", one noise seed"
    return paragraphs(
        "# Benchmark",
        "AUROC, OOD the positive class. `less it` is the mean AUROC over pairs of "
        f"{champion} less that of the row [95% interval], over the images of all sets and, where "
        "flows were retrained, over these flows and images; * where Holm's p-value over the rivals "
        "is below 0.05.",
        _short(result, summary, pairs),
        "## All detectors",
        f"AUROC [DeLong's 95% interval]{several}. The best of a pair is bold.",
        _of_pairs("detector", summary, auroc, pairs, lambda d: _mean(summary, pairs, d)),
        "FPR95 (share of OOD accepted when 95% of ID is):",
        _of_pairs(
            "detector",
            summary,
            lambda names: f"{summary[names]['fpr95']:.3f}",
            pairs,
            lambda d: _mean(summary, pairs, d, "fpr95"),
        ),
        f"Test images (ID, OOD): {'; '.join(f'{i} → {o} {sizes[i, o]}' for i, o in pairs)}.",
        *(f"{name}: {note}" for name, notes in result["notes"].items() for note in notes),
        f"## {champion} against each rival",
        f"AUROC of {champion} minus the rival's on the same images, seed 0, paired bootstrap [95% "
        "interval]; * where Holm's p-value over the pair's rivals is below 0.05. The mean over "
        "pairs has DeLong's interval over the images of all sets, Holm's p-value over the rivals.",
        _of_pairs(
            "rival",
            rivals,
            lambda names: _difference(rivals[names]),
            pairs,
            lambda d: means.get(d, "not on all"),
        ),
        *_retrained(result["retrained"], champion),
        "## The noise strength",
        "Lambda as chosen on ID images alone, and what its AUROC loses against the best lambda of "
        "the grid for the OOD test images, which is no result. At the scorer's seed.",
        table(["form", "ID → OOD", "lambda", "AUROC", "best", "regret"], _regrets(result)),
        "## Missing",
        table(["ID", "OOD", "why"], missing),
        "likelihood ratio and WAIC need further flows (--background, --member); they are run where "
        "such are shipped or given.",
    )


PARTS = ("likelihood", "similarity", "universal_complexity", "spem_paper")
NOISE = ("constant_noise", "shuffled_noise", "contrast_noise")
STRONGEST = 5  # rivals of the short table, beside SPEM's parts and controls


def _short(result: Mapping[str, Any], summary: Summary, pairs: Sequence[tuple[str, str]]) -> list:
    """The champion, its parts, the best without noise, the controls, and the strongest rivals."""
    champion, known = result["against"], dict.fromkeys(d for _, _, d in summary)
    known = [d for d in known if all((*p, d) in summary for p in pairs)]
    mean = {d: np.mean([summary[*p, d]["auroc"] for p in pairs]) for d in known}
    silent = [d for d in (f"spem_{name}" for name in score.NO_NOISE) if d in mean]
    shown = [champion, *PARTS, *sorted(silent, key=mean.get)[-1:], *NOISE]
    others = [d for d in known if d not in shown and not d.startswith("spem")]
    shown += sorted(others, key=mean.get, reverse=True)[:STRONGEST]
    images = {c["rival"]: _difference(c) for c in result["mean_comparisons"]}
    flows = {c["rival"]: _difference(c) for c in result["retrained"]["mean_comparisons"]}
    header = ["detector", "mean", "less it, over images"]
    header += ["less it, over flows and images"] if flows else []
    body = []
    for d in (d for d in dict.fromkeys(shown) if d in mean):
        less = [images.get(d, ""), *([flows.get(d, "")] if flows else [])]
        cells = [f"{summary[*p, d]['auroc']:.3f}" for p in pairs]
        body.append([title(d), f"{mean[d]:.3f}", *less, *cells])
    return table([*header, *(f"{i} → {o}" for i, o in pairs)], body)


def _retrained(result: Mapping[str, Any], champion: str) -> list:
    """The section on retrained flows, if there are any."""
    found = {(r["id"], r["ood"], r["detector"]): r for r in result["aurocs"]}
    if not found:
        return []
    pairs = list(dict.fromkeys((i, o) for i, o, _ in found))
    means = {c["rival"]: _difference(c) for c in result["mean_comparisons"]}
    sizes = {p[0]: len(next(r for n, r in found.items() if n[:2] == p)["each"]) for p in pairs}
    counts = ", ".join(f"{count} of {name}" for name, count in sizes.items())

    def cell(names: tuple[str, str, str]) -> str:
        each = " ".join(f"{area:.3f}" for area in found[names]["each"])
        return f"{estimate(found[names]['auroc'], found[names]['interval'])} ({each})"

    return [
        "## Around retrained flows",
        f"Flows trained alike from different seeds ({counts}), lambda chosen anew around each: the "
        "mean AUROC [95% interval over flows and images] (of each flow), seed 0.",
        _of_pairs("detector", found, cell, pairs, lambda d: _mean(found, pairs, d)),
        f"{champion} less each rival, the mean over pairs and flows [95% interval over flows and "
        "images]; * where Holm's p-value over the rivals is below 0.05:",
        table(["rival", "difference"], [[title(d), told] for d, told in means.items()]),
    ]


def _spread(rows: Sequence[Mapping[str, Any]]) -> str:
    """How far the noise seeds are apart, for a sentence."""
    apart = spreads(rows)
    ours = [each for (_, _, d), each in apart.items() if d == "spem"]
    i, o, d = worst = max(apart, key=apart.get)
    of_spem = f"{max(ours):.4f} apart for SPEM, " if ours else ""
    at_most = f"{of_spem}{apart[worst]:.4f}{'' if ours else ' apart'} for all"
    return f"; AUROCs of the seeds are at most {at_most} ({title(d)}, {i} → {o})"


def _difference(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    star = "*" if one["p_value_holm"] < 0.05 else ""
    return f"{one['difference']:+.3f}{star} [{low:+.3f}, {high:+.3f}]"


def _mean(
    summary: Mapping, pairs: Sequence[tuple[str, str]], detector: str, key: str = "auroc"
) -> str:
    """Over all pairs, of a detector that ran on them."""
    of = [summary[*pair, detector][key] for pair in pairs if (*pair, detector) in summary]
    return f"{np.mean(of):.3f}" if len(of) == len(pairs) else "not on all"


def _of_pairs(
    what: str,
    known: Mapping,
    cell: Callable[..., str],
    pairs: Sequence[tuple[str, str]],
    overall: Callable[[str], str],
) -> list[str]:
    """A row a detector, a column a pair, and what holds over all of them."""
    body = [
        [title(d), overall(d), *(cell((*p, d)) if (*p, d) in known else "not run" for p in pairs)]
        for d in dict.fromkeys(d for _, _, d in known)
    ]
    return table([what, "mean over pairs", *(f"{i} → {o}" for i, o in pairs)], body)


def _regrets(result: Mapping[str, Any]) -> list[list[str]]:
    """A row a form and pair, and the mean of each form."""
    body, lost = [], {}
    for curve in result["curves"]:
        form, strength = title(curve["form"]), result["noise_strengths"][curve["id"]][curve["form"]]
        chosen, top, where = regret(curve["auroc"], strength)
        lost.setdefault(form, []).append(top - chosen)
        cells = f"{strength:.3g}", f"{chosen:.3f}", f"{top:.3f} at {where:.3g}"
        body.append([form, f"{curve['id']} → {curve['ood']}", *cells, f"{lost[form][-1]:.3f}"])
    means = {form: f"{np.mean(each):.3f}" for form, each in lost.items()}
    return body + [[form, "mean", "", "", "", mean] for form, mean in means.items()]
