"""Choosing lambda without OOD images: criteria that see ID images alone, against the oracle.

    python -m experiments.strength_study --data DIRECTORY --imagenet32 FILE

For every pair at hand and both forms of SPEM: the AUROC over lambda, the lambda that each criterion
chooses on held-out ID images, and the regret, which is the AUROC of the best lambda on the grid
(the oracle: it looks at the OOD test images, so it is no result) minus that of the chosen one.
Writes `report.json`, `report.md` and `curves.png`.
"""

import argparse
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import stats

import ecood.score
from ecood import metrics
from ecood.score import turned
from ecood.score.gain import is_telling
from experiments import report
from experiments.benchmark import pictures, sets
from experiments.benchmark.cache import Cache
from experiments.benchmark.curves import FORMS, GRID, Seen, follow, form_scores, references

BUDGET = 0.1  # bits/dim that noise may cost the median ID image


Criterion = Callable[[Mapping[str, Seen], Mapping[str, np.ndarray]], np.ndarray]


def _outliers(kind: str) -> Criterion:
    """AUROC of held-out images against the same images spoilt in one way."""

    def values(seen: Mapping[str, Seen], scores: Mapping[str, np.ndarray]) -> np.ndarray:
        pairs = zip(scores["held_out"], scores[kind], strict=True)
        return np.array([metrics.auroc(*pair) for pair in pairs])

    return values


def _balance(seen: Mapping[str, Seen], scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Minus how far the score's rank correlations with its two parts are from each other."""
    one = seen["held_out"]
    parts = (one.bits, -one.similarity)
    return np.array(
        [
            -abs(np.subtract(*(stats.spearmanr(score, part).statistic for part in parts)))
            for score in scores["held_out"]
        ]
    )


def _budget(seen: Mapping[str, Seen], scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Minus how far the median ID image's gain is from the budget, on a logarithmic scale."""
    one = seen["held_out"]
    gains = np.median(one.perturbed - one.bits, axis=1)
    return -np.abs(np.log(np.maximum(gains, 1e-6) / BUDGET))


CRITERIA: dict[str, Criterion] = {
    "turned": _outliers("turned"),
    "shuffled": _outliers("shuffled"),
    "blended": _outliers("blended"),
    "balance": _balance,
    "budget": _budget,
}


def shuffled(images: np.ndarray) -> np.ndarray:
    """Each image's four quarters in another order."""
    half_h, half_w = images.shape[1] // 2, images.shape[2] // 2
    mixed = images.copy()
    rows, columns = (
        (slice(0, half_h), slice(half_h, 2 * half_h)),
        (
            slice(0, half_w),
            slice(half_w, 2 * half_w),
        ),
    )
    quarters = [(r, c) for r in rows for c in columns]
    for source, target in zip((0, 1, 2, 3), (3, 0, 1, 2), strict=True):
        mixed[:, *quarters[target]] = images[:, *quarters[source]]
    return mixed


def blended(images: np.ndarray) -> np.ndarray:
    """Each image averaged with the one before."""
    return ((images.astype(np.uint16) + np.roll(images, 1, axis=0)) // 2).astype(np.uint8)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.strength_study", __doc__)
    add = parser.add_argument
    add("--data", default="embedded", help="auto, embedded, tfds or a path (default: embedded)")
    add("--imagenet32", help="an .npz file with a `test` array of 32x32 ImageNet crops")
    add("--limit", type=int, default=500, help="test images of each set at most (500)")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/strength_study"),
        help="the report's folder (default: runs/strength_study)",
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Measures the curves, applies the criteria, reports the regret."""
    cache = Cache(arguments.out / "curves")
    known, missing = sets.load_all(
        arguments.data,
        arguments.imagenet32,
        ecood.score.shipped(),
        arguments.limit,
        ecood.score.load,
    )
    rows, found, strengths = [], {}, {}
    for id_set in known:
        name, scorer, _, tests = id_set
        held_out = id_set.held_out
        followed = {
            "held_out": held_out,
            "turned": turned(held_out),
            "shuffled": shuffled(held_out),
            "blended": blended(held_out),
            **tests,
        }
        seen = {which: follow(cache, name, scorer, which, x) for which, x in followed.items()}
        for form in FORMS:
            scores = form_scores(form, seen)
            usable = _usable(form, seen["held_out"])
            chosen = {
                criterion: int(np.argmax(np.where(usable, values(seen, scores), -np.inf)))
                for criterion, values in CRITERIA.items()
            }
            strengths[form, name] = GRID[chosen["turned"]]  # SPEM's own criterion
            for ood in id_set.oods:
                pairs = zip(scores[name], scores[ood], strict=True)
                curve = np.array([metrics.auroc(*pair) for pair in pairs])
                found[form, name, ood] = curve.tolist()
                rows.append(row(form, name, ood, curve, chosen))
    result = {
        "grid": list(GRID),
        "curves": {f"{form}: {i} → {o}": curve for (form, i, o), curve in found.items()},
        "rows": rows,
        "missing": [m._asdict() for m in missing],
        **report.identify(arguments),
    }
    out = arguments.out
    report.write_json(out / "report.json", result)
    text = markdown(result)
    report.write_text(out / "report.md", text)
    pictures.strength_curves(out / "curves.png", found, strengths)
    print(text)
    print(f"wrote {out}/report.json, report.md and curves.png")


def _usable(form: str, held_out: Seen) -> np.ndarray:
    """Where on the grid SPEM may choose."""
    if form == "spem_paper":
        return np.ones(len(held_out.perturbed), bool)
    return np.array([is_telling(usual) for usual in references(held_out)])


def row(
    form: str, name: str, ood: str, curve: np.ndarray, chosen: Mapping[str, int]
) -> dict[str, Any]:
    """One pair and form: the oracle, and what each criterion chose and lost."""
    best = int(np.argmax(curve))
    return {
        "form": form,
        "id": name,
        "ood": ood,
        "oracle": {"strength": GRID[best], "auroc": float(curve[best])},
        **{
            criterion: {
                "strength": GRID[index],
                "auroc": float(curve[index]),
                "regret": float(curve[best] - curve[index]),
            }
            for criterion, index in chosen.items()
        },
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The report as a page."""
    names = list(CRITERIA)
    lines = [
        "# Choosing lambda on ID images alone",
        "",
        "AUROC at the chosen lambda (lambda; regret against the oracle, which looks at the OOD "
        "images and is no result).",
        "",
        f"| form | pair | oracle | {' | '.join(names)} |",
        "| --- " * (3 + len(names)) + "|",
    ]
    for one in result["rows"]:
        cells = [
            f"{one[n]['auroc']:.3f} ({one[n]['strength']:.2g}; {one[n]['regret']:.3f})"
            for n in names
        ]
        oracle = one["oracle"]
        lines.append(
            f"| {one['form']} | {one['id']} → {one['ood']} | {oracle['auroc']:.3f} "
            f"({oracle['strength']:.2g}) | {' | '.join(cells)} |"
        )
    for form in FORMS:
        regrets = [
            np.mean([one[n]["regret"] for one in result["rows"] if one["form"] == form])
            for n in names
        ]
        cells = " | ".join(f"{regret:.3f}" for regret in regrets)
        lines.append(f"| {form} | mean regret | | {cells} |")
    lines += [
        "",
        "turned, shuffled, blended: the largest AUROC of held-out ID images against the same "
        "images turned by a quarter, with their quarters in another order, or averaged with "
        "another one. balance: the score's rank correlations with likelihood and similarity are "
        f"nearest each other. budget: noise costs the median ID image nearest {BUDGET} bits/dim.",
        "",
        f"Command: `{result['command']}`, git {result['git_revision']}, {result['date']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    report.main(run, build_parser())
