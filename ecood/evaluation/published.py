"""What others published for the pairs (`published.json`), beside ours."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["OURS", "beside", "load"]

# Our detectors for a published method, where they are not simply called as the method is.
OURS = {
    "spem": ("spem_paper", "spem"),
    "dose": ("dose_kde", "dose_svm"),
    "complexity_density": ("complexity_latent",),
}


def load() -> list[dict[str, Any]]:
    """The published AUROCs, one object each, OOD the positive class.

    `model` is the density that was scored, `setting` what is known to differ from our runs or left
    open, `source` the paper, table and address, `verified` whether the number was read there.
    """
    path = pathlib.Path(__file__).with_name("published.json")
    return json.loads(path.read_text(encoding="utf-8"))


def beside(
    summary: Mapping[tuple[str, str, str], Mapping[str, Any]],
    published: Sequence[Mapping[str, Any]] | None = None,
) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Each published number of a pair in the summary, and the AUROCs of our detectors for it."""
    shown = []
    for pair in dict.fromkeys((i, o) for i, o, _ in summary):
        for one in load() if published is None else published:
            if (one["id"], one["ood"]) == pair:
                names = OURS.get(one["method"], (one["method"],))
                ran = [name for name in names if (*pair, name) in summary]
                shown.append((one, {name: summary[*pair, name]["auroc"] for name in ran}))
    return shown
