"""The section of a report on what others published."""

from collections.abc import Mapping, Sequence
from typing import Any

from ecood.evaluation.published import OURS, beside
from experiments.report import paragraphs, table, title

HEADING = "## Published numbers beside ours"
HEADER = ("ID → OOD", "method", "published", "ours", "their model and setting", "source")


def page(
    summary: Mapping[tuple[str, str, str], Mapping[str, Any]],
    published: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """Markdown lines: each published number of a pair that was run, and ours from the summary."""
    shown = beside(summary, published)
    if not shown:
        return [f"{HEADING}: none is known for these pairs."]
    sources, rows = list(dict.fromkeys(one["source"] for one, _ in shown)), []
    for one, ours in shown:
        digits = max(2, len(str(one["auroc"]).partition(".")[2]))  # as many as were published
        theirs = f"{one['auroc']:.{digits}f}{'' if one['verified'] else '†'}"
        several = len(OURS.get(one["method"], ())) > 1
        told = [f"{f'{title(name)} ' * several}{area:.3f}" for name, area in ours.items()]
        pair, setting = f"{one['id']} → {one['ood']}", f"{one['model']}; {one['setting']}"
        cells = pair, title(one["method"]), theirs, ", ".join(told) or "not run", setting
        rows.append([*cells, 1 + sources.index(one["source"])])
    remembered = "† Not verified: remembered, not read in the source."
    return paragraphs(
        HEADING,
        table(HEADER, rows),
        "AUROC. Models, training sets and test sets differ from ours: the columns say what the "
        "field reports, not who wins.",
        *([] if all(one["verified"] for one, _ in shown) else [remembered]),
        [f"{number}. {source}" for number, source in enumerate(sources, 1)],
    )
