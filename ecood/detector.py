"""The protocol that SPEM and every baseline keep."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Detector"]


class Detector(NamedTuple):
    """A pair of pure functions, as optax's transformations are.

    To run it over many images: `ecood.batches.map_images(d.score, state, key, images=images)`.

    Attributes:
      fit: `fit(key, id_images) -> state`, from in-distribution images alone, uint8 [N, H, W, C]:
        the array that the flow was trained from, which `fit` splits by `ecood.images.hold_out`
        as training did. `state` is a pytree of arrays.
      score: `score(state, key, images) -> scores`, uint8 [B, H, W, C] to float32 [B], larger
        means more OOD. One XLA program: it can be jitted, exported and sharded over the batch;
        a score depends on the state, the key and its own image, not on the rest of the batch.
    """

    fit: Callable[[jax.Array, np.ndarray], Any]
    score: Callable[[Any, jax.Array, jax.Array], jax.Array]
