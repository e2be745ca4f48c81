"""Embeddings that are computed elsewhere, beside the images that they are of."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ecood import encoders
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.splits import Split
from ecood.stand_ins import turned

__all__ = ["Beside", "Embeddings", "check_embeddings", "looked_up"]


class Embeddings(NamedTuple):
    """Of the parts of a `Split`, float [n, d] each, in the order of their images.

    `turned` are those of `ecood.score.turned(split.held_out)`, on which "auto" chooses the
    noise strength; a given strength needs none.
    """

    train: np.ndarray
    held_out: np.ndarray
    calibration: np.ndarray
    turned: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)  # compiled once for each function
class Beside:
    """`function(state, key, images)` of the pair (images, embeddings [B, d])."""

    function: Callable[..., Any]

    def __call__(self, state: Any, key: jax.Array, pair: tuple[jax.Array, jax.Array]) -> Any:
        """The encoder of these images is the table of their embeddings."""
        images, embeddings = pair
        encoder = encoders.beside(state.encoder, embeddings)
        return self.function(state.replace(encoder=encoder), key, images)


def check_embeddings(embeddings: Any, count: int, width: int, of: str = "images") -> np.ndarray:
    """Float32 [N, d]; an `InputError` for another shape, what are no floats, NaN or infinity."""
    found = np.asarray(embeddings)
    if found.shape != (count, width) or not np.issubdtype(found.dtype, np.floating):
        raise InputError(
            f"the embeddings of {count} {of} are {found.dtype} {list(found.shape)}; expected "
            f"floats [{count}, {width}], in the order of the images."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        found = np.float32(found)
    if bad := int((~np.isfinite(found).all(axis=1)).sum()):
        raise InputError(
            f"the embeddings of {bad} of {count} {of} are NaN, infinite or beyond float32; compute "
            "them again."
        )
    return found


def looked_up(encoder: Encoder, split: Split, embeddings: Embeddings, *, auto: bool) -> Encoder:
    """The encoder as a table of the split's images, and of the turned ones if `auto`."""
    if not isinstance(embeddings, Embeddings):
        raise InputError(
            f"embeddings is a {type(embeddings).__name__}; expected ecood.score.Embeddings, of the "
            "parts of the Split that is given."
        )
    if auto and embeddings.turned is None:
        raise InputError(
            "a noise_strength of 'auto' is chosen on turned images, of which no embeddings were "
            "given; give those of ecood.score.turned(split.held_out), or a number."
        )
    parts = split._asdict() | ({"turned": turned(split.held_out)} if auto else {})
    width = encoders.width(encoder, split.train.shape[1:])
    rows = [
        check_embeddings(getattr(embeddings, part), len(images), width, f"{part} images")
        for part, images in parts.items()
        if len(images)
    ]
    images = np.concatenate([part for part in parts.values() if len(part)])
    return encoders.remembered(encoder, images, embeddings=np.concatenate(rows))
