"""The memory bank: unit-norm embeddings of ID images, and the similarity to the nearest one."""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ecood import weights
from ecood.batches import map_images
from ecood.encoders import Encoder, identity
from ecood.errors import InputError

__all__ = ["build", "load", "nearest_similarity", "save", "unit_norm"]

CHUNK = 4096  # bank rows compared at once


def unit_norm(embeddings: jax.Array) -> jax.Array:
    """Embeddings [..., d] scaled to norm 1; a zero vector stays zero (similarity 0 to all)."""
    norm = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.where(norm > 0, norm, 1.0)


def build(
    encoder: Encoder, images: np.ndarray, *, progress: Callable[[int], None] | None = None
) -> jax.Array:
    """Embeds ID images.

    Args:
      encoder: the semantic encoder.
      images: uint8 [N, H, W, C].
      progress: called with the number of images embedded since its last call.

    Returns:
      The bank, float32 [N, d], unit norm.

    Raises:
      InputError: for an empty bank or embeddings that are not finite.
    """
    if len(images) == 0:
        raise InputError("the memory bank is empty; give at least one in-distribution image.")
    embeddings = map_images(encoder.embed, encoder.variables, images=images, progress=progress)
    if not np.isfinite(embeddings).all():
        raise InputError(
            f"the encoder {encoder.name} gave embeddings that are NaN or infinite for "
            f"{int((~np.isfinite(embeddings).all(axis=1)).sum())} of {len(images)} images; "
            "check its weights and its preprocessing."
        )
    return unit_norm(jnp.asarray(embeddings, jnp.float32))


def nearest_similarity(bank: jax.Array, embeddings: jax.Array) -> jax.Array:
    """S = max_i <e, m_i>, exact, with one chunk of the bank compared at a time.

    Args:
      bank: [N, d], unit norm, float32 or bfloat16.
      embeddings: [B, d], unit norm.

    Returns:
      float32 [B], in [-1, 1] up to rounding.
    """
    rows = min(CHUNK, len(bank))

    def compare(chunk: jax.Array, best: jax.Array) -> jax.Array:
        # A start past the end is clamped: the last chunk overlaps, which a maximum ignores.
        items = jax.lax.dynamic_slice_in_dim(bank, chunk * rows, rows)
        similarity = jax.lax.dot_general(
            embeddings.astype(items.dtype),
            items,
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        return jnp.maximum(best, jnp.max(similarity, axis=1))

    start = jnp.full(embeddings.shape[0], -jnp.inf, jnp.float32)
    return jax.lax.fori_loop(0, -(-len(bank) // rows), compare, start)


def save(path: str | os.PathLike, bank: jax.Array, encoder: Encoder) -> None:
    """Writes the bank as safetensors, with the identity of its encoder inside."""
    metadata = {"encoder": encoder.name, "encoder_identity": identity(encoder)}
    weights.save(path, {"embeddings": bank}, metadata)


def load(path: str | os.PathLike, encoder: Encoder) -> jax.Array:
    """Reads a bank.

    Raises:
      InputError: if the file is missing or damaged, or was built by another encoder.
    """
    tree, metadata = weights.load(path)
    if metadata.get("encoder_identity") != identity(encoder):
        raise InputError(
            f"the bank {path} was built by the encoder {metadata.get('encoder', 'unknown')} with "
            f"other weights than the given {encoder.name}; build it again with this encoder."
        )
    if set(tree) != {"embeddings"} or tree["embeddings"].ndim != 2 or not tree["embeddings"].size:
        raise InputError(f"{path} is not a memory bank; expected one array [N, d] in it.")
    return jnp.asarray(tree["embeddings"])
