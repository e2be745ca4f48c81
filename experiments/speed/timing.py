"""Two programs' times, taken turn by turn, and the row of the report that they make."""

import statistics
import time
from collections.abc import Callable
from typing import Any

__all__ = ["row", "take_turns"]

TURNS = 5


def take_turns(*runs: Callable[[], Any]) -> list[float]:
    """Median seconds of each, after one run that is not timed; turn by turn, as load may drift."""
    seconds = [[] for _ in runs]
    for turn in range(TURNS + 1):
        for run, taken in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            run()
            if turn > 0:
                taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]


def row(what: str, peer: str, unit: str, ours: float, theirs: float, **more: Any) -> dict[str, Any]:
    """One comparison. The ratio says how many times as fast ours is, whatever the unit.

    Args:
      what: was measured.
      peer: it is compared with.
      unit: of `ours` and `theirs`: "s", where less is better, or a rate.
      ours: measured.
      theirs: measured.
      more: whatever else the row tells.
    """
    ratio = theirs / ours if unit == "s" else ours / theirs
    return {
        "what": what,
        "peer": peer,
        "unit": unit,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
    } | more
