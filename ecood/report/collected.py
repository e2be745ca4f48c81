"""What a report keeps of the images that go by, in bounded memory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ecood.data.stream import Item
from ecood.score import Detection

__all__ = ["ROWS", "SHOWN", "Collected", "Row"]

ROWS = 10_000  # the most OOD images, which the table lists
SHOWN = 200  # those of them that are shown and explained


class Row(NamedTuple):
    """An image that was scored: the `order`-th, from 0, the `index`-th of its file."""

    path: str
    index: int
    order: int
    detection: Detection  # float32 []
    known: bool  # whether the scorer was made from it


class Collected:
    """Scores of all images, and the most OOD ones, added in turn.

    Attributes:
      rows: the most OOD images, the most OOD first; of equal scores the earlier one.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._scores: list[np.ndarray] = []
        self._known: list[np.ndarray] = []
        self._images: dict[int, np.ndarray] = {}

    def add(self, items: Sequence[Item], detection: Detection, known: np.ndarray) -> None:
        """Adds images that were scored together, and which of them the scorer was made from."""
        start = sum(map(len, self._scores))
        self._scores.append(np.asarray(detection.score))
        self._known.append(known)
        measured = map(Detection._make, zip(*detection, strict=True))
        new = [
            Row(item.path, item.index, order, found, bool(of_scorer))
            for order, (item, found, of_scorer) in enumerate(
                zip(items, measured, known, strict=True), start
            )
        ]
        images = self._images | {
            row.order: item.image for row, item in zip(new, items, strict=True)
        }
        self.rows = sorted([*self.rows, *new], key=lambda row: -row.detection.score)[:ROWS]
        self._images = {row.order: images[row.order] for row in self.rows[:SHOWN]}

    @property
    def scores(self) -> np.ndarray:
        """Of all images in their order, float32 [N]."""
        return np.concatenate(self._scores) if self._scores else np.zeros(0, np.float32)

    @property
    def known(self) -> np.ndarray:
        """Of all images in their order, whether the scorer was made from them, bool [N]."""
        return np.concatenate(self._known) if self._known else np.zeros(0, bool)

    @property
    def images(self) -> np.ndarray:
        """Of the first `SHOWN` rows, uint8 [n, H, W, C]."""
        return np.stack(list(self._images.values()))
