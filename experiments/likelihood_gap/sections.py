"""What the sections share: how one is written, and the columns on the ranking."""

from collections.abc import Mapping
from typing import Any

import jax

from ecood import metrics
from ecood.theory import auroc
from experiments import report

__all__ = ["area", "page", "ranking"]


def page(section: Mapping[str, Any]) -> list[str]:
    """The Markdown lines of a section: its `title`, `text`, `figure` and `tables`.

    A table is a `caption` and `rows`, each a dict of JSON values with the columns for keys.
    """
    lines = [f"## {section['title']}", "", section["text"], "", f"![]({section['figure']})", ""]
    for table in section["tables"]:
        header = list(table["rows"][0])
        rows = [[_cell(row[name]) for name in header] for row in table["rows"]]
        lines += [table["caption"], "", *report.table(header, rows), ""]
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return "never"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):  # a value and its standard error
        return " ± ".join(f"{part:.3f}" for part in value)
    return str(value)


def area(id_scores: jax.Array, ood_scores: jax.Array) -> str:
    """AUROC with its 95% interval, of scores [n] and [m]."""
    return report.estimate(
        metrics.auroc(id_scores, ood_scores), metrics.auroc_interval(id_scores, ood_scores)
    )


def ranking(id_scores: jax.Array, ood_scores: jax.Array) -> dict[str, Any]:
    """The AUROC of scores [n] and [m], and what their moments say of it."""
    moments = auroc.moments(id_scores, ood_scores)
    low, high = auroc.lower_bound(*moments), auroc.upper_bound(*moments)
    return {
        "AUROC": area(id_scores, ood_scores),
        "binormal": float(auroc.binormal(*moments)),
        "bounds": f"[{low:.3f}, {high:.3f}]",
    }
