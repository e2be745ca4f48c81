"""Progress on standard error: a bar in a terminal, else a plain line now and then."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

import tqdm

from ecood.errors import readable

__all__ = ["Progress", "progress_bar", "tell", "training"]

PACE = 30.0  # seconds between two lines


class Progress:
    """How much of some work is done."""

    def __init__(self, total: int | None, title: str, unit: str, bar: tqdm.tqdm | None):
        """Starts at 0; without a `bar` it writes lines."""
        self.total, self.done = total, 0
        self._title, self._unit, self._bar, self._next = title, unit, bar, time.monotonic() + PACE

    def update(self, count: int, **values: float) -> None:
        """Adds `count` to what is done, and shows some values beside it."""
        self.done += count
        shown = {name: f"{value:.4g}" for name, value in values.items()}
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update(count)
            if shown:
                self._bar.set_postfix(shown)
        elif time.monotonic() > self._next:
            self._next = time.monotonic() + PACE
            of = f" of {self.total}" if self.total else ""
            told = "".join(f", {name} {value}" for name, value in shown.items())
            tell(f"{self._title}: {self.done}{of} {self._unit}{told}")


@contextlib.contextmanager
def progress_bar(total: int | None, title: str, unit: str = "images") -> Iterator[Progress]:
    """The progress of a block of work; a bar is gone when it is done."""
    with contextlib.ExitStack() as stack:
        bar = None
        if sys.stderr is not None and sys.stderr.isatty():
            options = {"unit": f" {unit}", "leave": False, "dynamic_ncols": True}
            bar = stack.enter_context(tqdm.tqdm(total=total, desc=title, **options))
        yield Progress(total, title, unit, bar)


@contextlib.contextmanager
def training(title: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yields the `progress` that `ecood.train.fit` calls after each segment."""
    with progress_bar(None, title, "steps") as bar:

        def progress(record: dict[str, float]) -> None:
            if bar.done == 0 and (before := record["step"] - record["steps"]):
                tell(f"{title}: resuming from step {before}")
            bar.total = record["total_steps"] or None
            values = {name: record[name] for name in ("loss", "best") if name in record}
            bar.update(record["step"] - bar.done, **values)

        yield progress


def tell(line: str) -> None:
    """Writes a line on standard error, above a bar if there is one."""
    try:
        tqdm.tqdm.write(readable(line), file=sys.stderr)
    except OSError:  # whoever reads standard error closed it, or a disk is full: work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
