"""Progress bars on standard error."""

import contextlib
from collections.abc import Callable, Iterator

import tqdm

__all__ = ["progress_bar", "training"]


@contextlib.contextmanager
def progress_bar(total: int | None, title: str, unit: str = "img") -> Iterator[tqdm.tqdm]:
    """A tqdm bar that is gone when it is done."""
    with tqdm.tqdm(total=total, desc=title, unit=unit, leave=False, dynamic_ncols=True) as bar:
        yield bar


@contextlib.contextmanager
def training(title: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yields the `progress` that `ecood.train.fit` calls after each segment."""
    with progress_bar(None, title, "step") as bar:

        def progress(record: dict[str, float]) -> None:
            bar.total = record["total_steps"] or None
            bar.n = record["step"]
            bar.set_postfix({k: f"{record[k]:.4g}" for k in ("loss", "best") if k in record})

        yield progress
