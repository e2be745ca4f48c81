"""What happened in a run over many images, in words and for machines."""

import json
import pathlib
from typing import Any

import numpy as np

from ecood import conformal
from ecood.data.stream import counted
from ecood.data.unused import Unused
from ecood.score import Program, Scorer
from ecood.words import number_of

__all__ = ["FPR", "drift_sentence", "introduce", "sentences", "summarise", "write"]

FPR = 0.05  # where the user states none
PROBLEMS = 100  # told one by one


def introduce(name: str, scorer: Scorer | Program) -> str:
    """Which scorer scores, in one line."""
    height, width, channels = scorer.image_shape
    known = 0 if scorer.calibration is None else len(scorer.calibration)
    return (
        f"scorer: {name} (images of {height} x {width} pixels and "
        f"{number_of(channels, 'channel')}; {number_of(known, 'calibration image')})"
    )


def summarise(
    name: str,
    scorer: Scorer | Program,
    scores: np.ndarray,
    tested: np.ndarray,
    unused: Unused,
    fpr: float | None,
) -> dict[str, Any]:
    """Of a scorer's run, as JSON values.

    Args:
      name: the scorer's.
      scorer: what scored; the parts that need a calibration are left out if it has none, and those
        that need a threshold if its calibration images allow none.
      scores: float32 [N], N >= 1.
      tested: which of them have a p-value, bool [N]. Those that the scorer was made from have none,
        and are neither flagged nor in the drift.
      unused: what could not be used, and what of folders was not taken.
      fpr: the false-positive rate that was asked for, or None for `FPR`.
    """
    fpr = FPR if fpr is None else fpr
    found = {
        "scorer": name,
        "scored": len(scores),
        "passed_over": unused.count,
        "passed_over_by_suffix": dict(unused.by_suffix),
        "not_taken_by_suffix": dict(unused.not_taken),
        "problems": unused.problems[:PROBLEMS],
    }
    if scorer.calibration is None:
        return found
    new = scores[tested]
    found["made_from"] = len(scores) - len(new)
    if not len(new):
        return found
    found["drift"] = conformal.drift(scorer.calibration, new)._asdict()
    threshold = scorer.threshold(fpr)
    if np.isfinite(threshold):
        low, high = conformal.realised_fpr(len(scorer.calibration), fpr)
        share = conformal.expected_fpr(len(scorer.calibration), fpr)
        found |= {
            "fpr": fpr,
            "fpr_between": [low, high],
            "threshold": threshold,
            "flagged": int(np.sum(new > threshold)),
            "expected_by_chance": share * len(new),
        }
    return found


def sentences(found: dict[str, Any]) -> list[str]:
    """A summary in words."""
    said = []
    if known := found.get("made_from"):
        said.append(
            f"the scorer was made from {known:,} of the {number_of(found['scored'], 'image')}: "
            "such scores say nothing about new images, have no p-value, and count in nothing that "
            "follows but their number"
        )
    if "flagged" in found:
        low, high = found["fpr_between"]
        said.append(
            f"flagged {found['flagged']} at a false-positive rate of {found['fpr']:.3g} "
            f"({low:.2g} to {high:.2g} by the luck of the calibration images); "
            f"{found['expected_by_chance']:.3g} expected by chance"
        )
    if "drift" in found:
        said.append(drift_sentence(conformal.Drift(**found["drift"])))
    if others := found["not_taken_by_suffix"]:
        said.append(f"not taken for images: {counted(others)}")
    lost = f" ({counted(found['passed_over_by_suffix'])})" if found["passed_over"] else ""
    scored = number_of(found["scored"], "image")
    return [*said, f"scored {scored}, passed over {found['passed_over']:,}{lost}"]


def drift_sentence(found: conformal.Drift) -> str:
    """The drift in one number and in words."""
    verdict = "drift" if found.p_value < conformal.DRIFT_LEVEL else "no sign of drift"
    return (
        f"{verdict}: {number_of(found.n, 'image')}, Kolmogorov-Smirnov statistic "
        f"{found.statistic:.3f}, p = {found.p_value:.2g}"
    )


def write(found: dict[str, Any], path: pathlib.Path) -> None:
    """Writes a summary as JSON; bytes of names that are no text as escapes."""
    path.write_text(json.dumps(found, indent=1) + "\n")
