"""What could not be used of the images that go by, counted in bounded memory."""

import pathlib
from collections import Counter

from ecood.data.stream import Item

__all__ = ["Unused"]

PROBLEMS = 1000  # kept one by one
NOTHING = "the list of paths is empty."


class Unused:
    """Images that could not be used, and what of folders was not taken.

    Attributes:
      count: how many images.
      by_suffix: how many of which files.
      not_taken: files of folders that are no images, by suffix.
      problems: the sentences of the first `PROBLEMS` images.
      reason: what was told first, of an image or a folder; if nothing was, there was nothing.
    """

    def __init__(self) -> None:
        self.by_suffix: Counter[str] = Counter()
        self.not_taken: Counter[str] = Counter()
        self.problems: list[str] = []
        self.reason = NOTHING

    @property
    def count(self) -> int:
        """How many images could not be used."""
        return self.by_suffix.total()

    def add(self, item: Item) -> None:
        """Counts an item that has a problem."""
        if self.reason == NOTHING:
            self.reason = item.problem
        self.not_taken.update(item.others or {})
        if item.count:
            suffix = pathlib.Path(item.path).suffix.lower() or "without suffix"
            self.by_suffix[suffix] += item.count
            if len(self.problems) < PROBLEMS:
                self.problems.append(item.problem)
