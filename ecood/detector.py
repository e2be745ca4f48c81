"""The protocol that SPEM and every baseline keep, and the one way to run it over many images."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ecood.batches import BATCH_SIZE, map_images
from ecood.errors import InputError
from ecood.images import check_images
from ecood.splits import Split

__all__ = ["Detector", "Score", "Scored", "already_fitted", "detections", "scores"]


class Scored(NamedTuple):
    """What a detector tells that has nothing to tell but its score, float32 [B]."""

    score: jax.Array


@dataclasses.dataclass(frozen=True)  # `jax.jit` keeps weak references, which tuples have not
class Score:
    """The score alone: `(state, key, images) -> float32 [B]`; equal where `detect` is equal."""

    detect: Callable[[Any, jax.Array, Any], Any]

    def __call__(self, state: Any, key: jax.Array, images: Any) -> jax.Array:
        """The score of images, float32 [B]."""
        return self.detect(state, key, images).score


class Detector(NamedTuple):
    """A pair of pure functions, as optax's transformations are; `scores` runs it.

    Attributes:
      fit: `fit(key, split) -> state`, from in-distribution images alone
        (`ecood.splits.Split`). `state` is a pytree of arrays and of the models that
        score, each held once.
      detect: `detect(state, key, images) -> NamedTuple of [B] arrays`, images uint8 [B,
        H, W, C]. Its field `score`, float32, is larger for images that are more OOD;
        the others are what the score was made from. One XLA program: it can be jitted,
        exported and sharded over the batch; a row depends on the state, the key and its
        own image alone.
      prepare: None, or what only the host can tell of images (the length of their PNG
        file), `prepare(images) -> pytree of [N, ...] arrays`, each row a function of
        its own image alone. `detect` then takes the pair `(images, prepare(images))`.
    """

    fit: Callable[[jax.Array, Split], Any]
    detect: Callable[[Any, jax.Array, Any], Any]
    prepare: Callable[[np.ndarray], Any] | None = None

    @property
    def score(self) -> Callable[[Any, jax.Array, Any], jax.Array]:
        """`score(state, key, images) -> float32 [B]`; what only the rest needs is not computed."""
        return Score(self.detect)


def already_fitted(state: Any) -> Callable[[jax.Array, Split], Any]:
    """A `fit` that gives `state`, whatever the split."""
    return lambda key, split: state


def scores(detector: Detector, state: Any, key: jax.Array, images: Any, **options: Any):
    """Scores of any number of images, float32 [N]; see `detections`."""
    alone = detector._replace(detect=detector.score)
    return detections(alone, state, key, images, **options)


def detections(
    detector: Detector,
    state: Any,
    key: jax.Array,
    images: Any,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """What `detect` tells of images, uint8 [N, H, W, C]: a NamedTuple of arrays [N].

    `batch_size` is the number of images a call of the compiled program, and `progress`
    is called with the number of images done since its last call.

    Raises:
      InputError: for what are no images, or not of the shape that the detector takes.
    """
    images = check_images(images)
    given = images if detector.prepare is None else (images, detector.prepare(images))
    try:
        options = {"batch_size": batch_size, "progress": progress}
        return map_images(detector.detect, state, key, images=given, **options)
    except InputError:
        raise
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"this detector cannot score images of shape {list(images.shape[1:])} "
            f"({str(error).splitlines()[0]}); give it images like those that it was fitted to, or "
            "mend its detect."
        ) from error
