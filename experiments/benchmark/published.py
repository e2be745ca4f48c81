"""What others published for the benchmark's pairs (`published.json`), beside ours."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report import paragraphs, table, title

# Our detectors for a published method, where they are not simply called as the method is.
OURS = {
    "spem": ("spem_paper", "spem"),
    "dose": ("dose_kde", "dose_svm"),
    "complexity_density": ("complexity_latent",),
}
HEADING = "## Published numbers beside ours"
HEADER = ("ID → OOD", "method", "published", "ours", "their model and setting", "source")


def load() -> list[dict[str, Any]]:
    """The published AUROCs, one object each, OOD the positive class.

    `model` is the density that was scored, `setting` what is known to differ from our runs or left
    open, `source` the paper, table and address, `verified` whether the number was read there.
    """
    path = pathlib.Path(__file__).with_name("published.json")
    return json.loads(path.read_text(encoding="utf-8"))


def page(
    summary: Mapping[tuple[str, str, str], Mapping[str, Any]],
    published: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """Markdown lines: each published number of a pair that was run, and ours from the summary."""
    published = load() if published is None else published
    pairs = dict.fromkeys((i, o) for i, o, _ in summary)
    shown = [one for pair in pairs for one in published if (one["id"], one["ood"]) == pair]
    if not shown:
        return [f"{HEADING}: none is known for these pairs."]
    sources = list(dict.fromkeys(one["source"] for one in shown))

    def row(one: Mapping[str, Any]) -> list[Any]:
        digits = max(2, len(str(one["auroc"]).partition(".")[2]))  # as many as were published
        theirs = f"{one['auroc']:.{digits}f}{'' if one['verified'] else '†'}"
        names = OURS.get(one["method"], (one["method"],))
        ran = [n for n in names if (one["id"], one["ood"], n) in summary]
        prefix = {n: f"{title(n)} " if len(names) > 1 else "" for n in ran}
        aurocs = [f"{prefix[n]}{summary[one['id'], one['ood'], n]['auroc']:.3f}" for n in ran]
        ours, setting = ", ".join(aurocs) or "not run", f"{one['model']}; {one['setting']}"
        number = 1 + sources.index(one["source"])
        return [f"{one['id']} → {one['ood']}", title(one["method"]), theirs, ours, setting, number]

    remembered = "† Not verified: remembered, not read in the source."
    return paragraphs(
        HEADING,
        table(HEADER, map(row, shown)),
        "AUROC. Models, training sets and test sets differ from ours: the columns say what the "
        "field reports, not who wins.",
        *([] if all(one["verified"] for one in shown) else [remembered]),
        [f"{number}. {source}" for number, source in enumerate(sources, 1)],
    )
