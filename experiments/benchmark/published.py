"""What others published for the benchmark's pairs: `published.json`, checked, and beside ours."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ecood.errors import InputError
from experiments.benchmark import sets, tables

__all__ = ["PATH", "Published", "load", "table"]

PATH = pathlib.Path(__file__).with_name("published.json")
# Our detectors for a published method, where they are not simply called as the method is.
OURS = {
    "spem": ("spem_paper", "spem"),
    "dose": ("dose_kde", "dose_svm"),
    "complexity_density": ("complexity_latent",),
}
ADDRESS = re.compile(r"https?://\S|arXiv \d{4}\.\d{4,5}")


class Published(NamedTuple):
    """One AUROC that somebody else reports; OOD is the positive class.

    Attributes:
      id: the in-distribution set, as `sets.OOD_OF` calls it.
      ood: the OOD set.
      method: the method, named as our detector is if we have it.
      auroc: in [0, 1].
      model: the density model that was scored.
      setting: what is known to differ from our runs, and what the source leaves open.
      source: paper, table and address; if the number was read elsewhere than in the paper, where.
      verified: whether the number was read in the source, not merely remembered.
    """

    id: str
    ood: str
    method: str
    auroc: float
    model: str
    setting: str
    source: str
    verified: bool


def load(path: pathlib.Path = PATH) -> list[Published]:
    """The published numbers, in the file's order.

    Raises:
      InputError: if an entry lacks a field or an address, names no pair of ours, or is a repeat.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); expected a JSON list.") from error
    if not isinstance(entries, list):
        raise InputError(f"{path} holds a {type(entries).__name__}; expected a JSON list.")
    published = []
    for place, entry in enumerate(entries):
        if fault := _fault(entry):
            raise InputError(f"entry {place} of {path} {fault}; correct it.")
        published.append(Published(**entry | {"auroc": float(entry["auroc"])}))
        if published[-1] in published[:-1]:
            raise InputError(f"entry {place} of {path} repeats an earlier one; remove it.")
    return published


def _fault(entry: Any) -> str | None:
    """What is wrong with an entry, as the end of a sentence."""
    if not isinstance(entry, dict) or entry.keys() != set(Published._fields):
        return f"is {entry!r}, expected an object with {', '.join(Published._fields)}"
    for field in ("id", "ood", "method", "model", "setting", "source"):
        text = entry[field]
        if not isinstance(text, str) or not text.strip() or "|" in text or "\n" in text:
            return f"has the {field} {text!r}, expected one line of text without |"
    if entry["ood"] not in sets.OOD_OF.get(entry["id"], ()):
        return f"has the pair {entry['id']}, {entry['ood']}, which is not in the benchmark"
    if type(entry["auroc"]) not in (int, float) or not 0 <= entry["auroc"] <= 1:
        return f"has the auroc {entry['auroc']!r}, expected a number in [0, 1]"
    if type(entry["verified"]) is not bool:
        return f"has verified = {entry['verified']!r}, expected true or false"
    if not ADDRESS.search(entry["source"]):
        return f"has the source {entry['source']!r}, expected an arXiv number or a URL in it"
    return None


def table(
    summary: Mapping[tuple[str, str, str], Mapping[str, Any]],
    published: Sequence[Published] | None = None,
) -> list[str]:
    """Markdown lines: each published number of a pair that was run, ours beside it.

    Args:
      summary: by (id, ood, detector), a mapping with our mean "auroc": `tables.summarise`.
      published: what to show (default: the file's).
    """
    published = load() if published is None else published
    pairs = list(dict.fromkeys((i, o) for i, o, _ in summary))
    shown = [p for pair in pairs for p in published if (p.id, p.ood) == pair]
    sources = {
        p.source: number for number, p in enumerate({p.source: p for p in shown}.values(), 1)
    }
    if not shown:
        return ["No number is published for these pairs."]
    return [
        "| ID → OOD | method | published | ours | their model and setting | source |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {p.id} → {p.ood} | {tables.title(p.method)} | {_digits(p.auroc)}"
            f"{'' if p.verified else '†'} | {_ours(p, summary)} | {p.model}; {p.setting} "
            f"| {sources[p.source]} |"
            for p in shown
        ),
        "",
        "AUROC. Models, training sets and test sets differ from ours: the columns say what the "
        "field reports, not who wins.",
        *(
            ["", "† Not verified: remembered, not read in the source."]
            if not all(p.verified for p in shown)
            else []
        ),
        "",
        *(f"{number}. {source}" for source, number in sources.items()),
    ]


def _ours(one: Published, summary: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> str:
    names = OURS.get(one.method, (one.method,))
    found = {
        n: summary[one.id, one.ood, n]["auroc"] for n in names if (one.id, one.ood, n) in summary
    }
    if len(names) == 1:
        return "".join(f"{auroc:.3f}" for auroc in found.values()) or "not run"
    return ", ".join(f"{tables.title(n)} {auroc:.3f}" for n, auroc in found.items()) or "not run"


def _digits(auroc: float) -> str:
    """As many digits as were published, two at least."""
    return f"{auroc:.{max(2, len(str(auroc).partition('.')[2]))}f}"
