"""From ID images to a bank."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ecood.batches import map_images
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.images import check_images

__all__ = ["STORAGE", "build", "check_storage", "unit_norm"]

STORAGE = ("float32", "bfloat16", "float8_e4m3fn")


def unit_norm(embeddings: jax.Array) -> jax.Array:
    """Embeddings [..., d] scaled to norm 1; a zero vector stays zero (similarity 0 to all)."""
    norm = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.where(norm > 0, norm, 1.0)


def build(
    encoder: Encoder,
    images: np.ndarray,
    *,
    dtype: DTypeLike = jnp.float32,
    progress: Callable[[int], None] | None = None,
) -> jax.Array:
    """Embeds ID images: the bank [N, d], unit norm up to the rounding of `dtype`.

    Args:
      encoder: the semantic encoder.
      images: uint8 [N, H, W, C].
      dtype: float32; bfloat16, half the size, which moves no similarity by more than
        2^-8; or float8_e4m3fn, a quarter (see `compress`).
      progress: called with the number of images embedded since its last call.

    Raises:
      InputError: for no images, embeddings that are not finite, or another dtype.
    """
    dtype = check_storage(dtype)
    if len(images) == 0:
        raise InputError("the memory bank is empty; give at least one in-distribution image.")
    images = check_images(images)
    embeddings = map_images(Encoder.embed, encoder, images=images, progress=progress)
    if not np.isfinite(embeddings).all():
        raise InputError(
            f"the encoder {encoder.name} gave embeddings that are NaN or infinite for "
            f"{int((~np.isfinite(embeddings).all(axis=1)).sum())} of {len(images)} images; "
            "check its weights and its preprocessing."
        )
    return unit_norm(jnp.asarray(embeddings, jnp.float32)).astype(dtype)


def check_storage(dtype: DTypeLike) -> np.dtype:
    """The dtype, or a refusal of one that a bank cannot be stored in."""
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or known.name not in STORAGE:
        raise InputError(
            f"dtype is {getattr(known, 'name', dtype)!r}; a memory bank is stored in "
            f"{', '.join(STORAGE[:-1])} or {STORAGE[-1]}."
        )
    return known
