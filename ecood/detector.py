"""The protocol that SPEM and every baseline keep, and the one way to run it over many images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ecood.batches import BATCH_SIZE, map_images
from ecood.errors import InputError
from ecood.images import check_images

__all__ = ["Detector", "scores"]


class Detector(NamedTuple):
    """A pair of pure functions, as optax's transformations are.

    To run it over many images: `scores`.

    Attributes:
      fit: `fit(key, id_images) -> state`, from in-distribution images alone, uint8 [N, H, W, C]:
        the array that the flow was trained from, which `fit` splits by `ecood.images.hold_out`
        as training did. `state` is a pytree of arrays.
      score: `score(state, key, images) -> scores`, uint8 [B, H, W, C] to float32 [B], larger
        means more OOD. One XLA program: it can be jitted, exported and sharded over the batch;
        a score depends on the state, the key and its own image, not on the rest of the batch.
      prepare: None, or what only the host can tell of images (the length of their PNG file),
        `prepare(images) -> pytree of [N, ...] arrays`, each row a function of its own image
        alone. `score` then takes the pair `(images, prepare(images))` in place of the images,
        and is one XLA program of both.
    """

    fit: Callable[[jax.Array, np.ndarray], Any]
    score: Callable[[Any, jax.Array, Any], jax.Array]
    prepare: Callable[[np.ndarray], Any] | None = None


def scores(
    detector: Detector,
    state: Any,
    key: jax.Array,
    images: np.ndarray,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Scores any number of images, whatever the detector.

    Args:
      detector: the detector.
      state: what its `fit` returned.
      key: the run's PRNG key.
      images: uint8 [N, H, W, C], N >= 1.
      batch_size: images a call of the compiled program.
      progress: called with the number of images done since its last call.

    Returns:
      float32 [N]; larger means more OOD.

    Raises:
      InputError: for what are no images, or not of the shape that the detector takes.
    """
    images = check_images(images)
    seen = images if detector.prepare is None else (images, detector.prepare(images))
    try:
        return map_images(
            detector.score, state, key, images=seen, batch_size=batch_size, progress=progress
        )
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"this detector cannot score images of shape {list(images.shape[1:])} "
            f"({str(error).splitlines()[0]}); give it images like those that it was fitted to."
        ) from error
