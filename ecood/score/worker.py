"""Scoring in processes that know nothing of each other, of Ray or of multiprocessing."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ecood.errors import InputError
from ecood.images import as_array
from ecood.score.scorer import load

__all__ = ["Worker"]

_load = functools.lru_cache(maxsize=1)(load)  # once in each process


@dataclasses.dataclass(frozen=True)
class Worker:
    """Scores batches of images; small to send, it reads its scorer where it is first called.

        pool.map(Worker("my_scorer"), batches)  # of concurrent.futures, its processes spawned
        dataset.map_batches(Worker, fn_constructor_args=["my_scorer"], ...)  # of Ray Data

    A batch is {"image": uint8 [N, H, W, C], ...}, as `ray.data.read_images` gives it: grey images
    may lack the C. The result has all else that the batch has, and the fields of a `Detection`,
    float32 [N]: "score", "similarity", ... Raises `InputError` for a batch without images, and for
    images that the scorer does not take.

    Attributes:
      scorer: a name or directory, as `ecood.score.load` takes it, that the process can read.
      trust: likewise.
    """

    scorer: str
    trust: str | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with scores instead of images."""
        if "image" not in batch:
            raise InputError(
                f"the batch has the columns {', '.join(map(str, batch)) or '(none)'}; expected its "
                "images under image."
            )
        scorer, images = _load(self.scorer, trust=self.trust), batch["image"]
        if isinstance(images, np.ndarray) and images.dtype == object:
            images = list(images)  # as Ray gives images of several sizes, which then are told
        images = as_array(images)
        if images.ndim == 3 and scorer.image_shape[-1] == 1:
            images = images[..., None]
        kept = {name: column for name, column in batch.items() if name != "image"}
        return kept | scorer.detect(images)._asdict()
