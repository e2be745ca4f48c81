"""Two programs' times, taken turn by turn, and the row of the report that they make."""

import statistics
import time
from collections.abc import Callable
from typing import Any

__all__ = ["row", "take_turns"]

TURNS = 5


def take_turns(*runs: Callable[[], Any]) -> list[float]:
    """Median seconds of each, turn by turn, as load may drift.

    In its turn a program runs once untimed and once under the clock: the first finds the other's
    data in the caches and, for a while, the other's threads waiting on the cores.
    """
    seconds = [[] for _ in runs]
    for _ in range(TURNS):
        for run, taken in zip(runs, seconds, strict=True):
            run()
            started = time.perf_counter()
            run()
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
