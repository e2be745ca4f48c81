"""An encoder as a table of its embeddings: embed once, use in many detectors."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood.batches import map_images
from ecood.encoders.encoder import Encoder
from ecood.images import content_hash

__all__ = ["remembered"]


class Memory(NamedTuple):
    """Embeddings in the order of their images' hashes."""

    hashes: jax.Array  # uint32 [N, 2], ascending in the first word
    embeddings: jax.Array  # float32 [N, d]
    widest: jax.Array  # int32 [], the largest number of images that share a first word


def remembered(
    encoder: Encoder,
    images: np.ndarray,
    *,
    embeddings: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> Encoder:
    """The encoder, under its own name, as a table looked up by an image's content.

    For comparing many detectors on the same images, uint8 [N, H, W, C], whose
    `embeddings`, float [N, d], may be known already; else `progress` is called with the
    number embedded since its last call. An image that is not remembered is embedded as
    NaN, which every bank refuses.
    """
    if embeddings is None:
        embeddings = map_images(Encoder.embed, encoder, images=images, progress=progress)
    hashes = map_images(content_hash, images=images)
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    _, counts = np.unique(hashes[:, 0], return_counts=True)
    table = Memory(
        jnp.asarray(hashes[order]),
        jnp.asarray(embeddings[order], jnp.float32),
        jnp.int32(counts.max()),
    )
    return Encoder(_look_up, table, encoder.name, encoder.trained_on)


def _look_up(table: Memory, images: jax.Array) -> jax.Array:
    wanted = content_hash(images)
    first = jnp.searchsorted(table.hashes[:, 0], wanted[:, 0])

    def probe(offset: jax.Array, found: jax.Array) -> jax.Array:
        at = jnp.minimum(first + offset, len(table.hashes) - 1)
        return jnp.where(jnp.all(table.hashes[at] == wanted, axis=1), at, found)

    missing = jnp.full(len(images), -1, first.dtype)
    found = jax.lax.fori_loop(0, table.widest, probe, missing)
    return jnp.where(found[:, None] >= 0, table.embeddings[found], jnp.nan)
