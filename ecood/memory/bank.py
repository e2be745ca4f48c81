"""A bank: made from ID images, compressed, kept on disk with its encoder's identity."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ecood import weights
from ecood.batches import map_images
from ecood.encoders import Encoder, identity
from ecood.errors import InputError, check_whole
from ecood.images import check_images
from ecood.words import number_of

__all__ = [
    "STORAGE",
    "Compressed",
    "build",
    "check_encoder",
    "compress",
    "load",
    "save",
    "unit_norm",
]

STORAGE = ("float32", "bfloat16", "float8_e4m3fn")


def unit_norm(embeddings: jax.Array) -> jax.Array:
    """Embeddings [..., d] scaled to norm 1; a zero vector stays zero (similarity 0 to all)."""
    largest = jnp.max(jnp.abs(embeddings), axis=-1, keepdims=True)
    embeddings = jnp.ldexp(embeddings, -jnp.frexp(largest)[1])  # else squares over- or underflow
    norm = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.where(norm > 0, norm, 1.0)


def build(
    encoder: Encoder,
    images: np.ndarray,
    *,
    dtype: DTypeLike = jnp.float32,
    progress: Callable[[int], None] | None = None,
) -> jax.Array:
    """Embeds ID images, uint8 [N, H, W, C]: the bank [N, d], unit norm up to rounding.

    It is stored as `dtype`: float32; bfloat16, half the size, which moves no similarity
    by more than 2^-8; or float8_e4m3fn, a quarter (see `compress`). `progress` is
    called with the number of images embedded since its last call. Raises `InputError`
    for no images, embeddings that are not finite, or another dtype.
    """
    dtype = _check_storage(dtype)
    if len(images) == 0:
        raise InputError("the memory bank is empty; give at least one in-distribution image.")
    images = check_images(images)
    embeddings = map_images(Encoder.embed, encoder, images=images, progress=progress)
    if not np.isfinite(embeddings).all():
        raise InputError(
            f"the encoder {encoder.name} gave embeddings that are NaN or infinite for "
            f"{int((~np.isfinite(embeddings).all(axis=1)).sum())} of "
            f"{number_of(len(images), 'image')}; check its weights and its preprocessing."
        )
    return unit_norm(jnp.asarray(embeddings, jnp.float32)).astype(dtype)


def _check_storage(dtype: DTypeLike) -> np.dtype:
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


class Compressed(NamedTuple):
    """A bank that stands for a larger one."""

    bank: jax.Array  # [n, d]
    # float32 [], r: no image's similarity to this bank differs by more than r from that
    # to the larger one, and unless numbers were rounded it is never higher.
    radius: jax.Array


def compress(
    bank: jax.Array, size: int | None = None, dtype: DTypeLike | None = None
) -> Compressed:
    """Keeps `size` rows that cover the others by greedy choice, rounded to `dtype`.

    Every row m of the bank, [N, d], has a kept row c with |m - c| <= r, the covering
    radius. For an embedding e of norm 1, |<e, m> - <e, c>| <= |m - c| <= r by Cauchy
    and Schwarz, so the largest similarity falls by at most r; and as the kept rows are
    rows of the bank, it cannot rise. Rounding a kept row to c' moves each similarity by
    at most |c - c'|, which is added to r. The greedy choice takes the row farthest from
    those kept; its radius is at most twice the smallest possible.

    None keeps all rows, or the dtype. Raises `InputError` if `size` is not positive, or
    a bank cannot be stored in `dtype`.

    Source: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance".
    """
    dtype = bank.dtype if dtype is None else _check_storage(dtype)
    if size is not None:
        check_whole("size", size)
    kept, radius = bank, jnp.float32(0)
    if size is not None and size < len(bank):
        chosen, radius = _k_centre(bank, size)
        kept = bank[chosen]
    stored = kept.astype(dtype)
    lost = kept.astype(jnp.float32) - stored.astype(jnp.float32)
    radius += jnp.max(jnp.linalg.norm(lost, axis=1))
    # A sum of d squares in float32 can be too small by a share of d eps / 2, its root by half that.
    return Compressed(stored, radius * (1 + bank.shape[1] * np.finfo(np.float32).eps))


@functools.partial(jax.jit, static_argnames="size")
def _k_centre(bank: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The first centre is the row most like the mean; returns rows int32 [size] and the radius."""

    def distance(centre: jax.Array) -> jax.Array:
        # The barrier keeps XLA from making a float32 copy of the bank ahead of the loop.
        rows, index = jax.lax.optimization_barrier((bank, centre))
        # Not 2 - 2 <m, c>, which is off by the root of the rounding error where m is near c.
        difference = rows.astype(jnp.float32) - rows[index].astype(jnp.float32)[None, :]
        return jnp.sum(difference**2, axis=1)

    def choose(step: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        chosen, nearest = carry
        farthest = jnp.argmax(nearest)
        return chosen.at[step].set(farthest), jnp.minimum(nearest, distance(farthest))

    mean = jnp.mean(bank.astype(jnp.float32), axis=0)
    first = jnp.argmax(bank.astype(jnp.float32) @ mean)
    start = jnp.full(size, first), distance(first)
    chosen, nearest = jax.lax.fori_loop(1, size, choose, start)
    return chosen, jnp.sqrt(jnp.max(nearest))


def save(path: str | os.PathLike, bank: jax.Array | Compressed, encoder: Encoder) -> None:
    """Writes the bank in its dtype, with the encoder's name and identity.

    Raises:
      InputError: for an encoder that has no name by which it could be known again.
    """
    if encoder.name == (lambda: None).__name__:
        raise InputError(
            f"the encoder's name is {encoder.name}, as that of every lambda, by which its bank "
            "cannot be known again; give it one: encoders.encoder(function, name=...)."
        )
    metadata = {"encoder": encoder.name, "encoder_identity": identity(encoder)}
    if isinstance(bank, Compressed):
        metadata["radius"] = repr(float(bank.radius))
        bank = bank.bank
    weights.save(path, {"embeddings": bank}, metadata)


def check_encoder(path: str | os.PathLike, metadata: Mapping[str, str], encoder: Encoder) -> None:
    """Refuses, by its file's metadata, a bank that another encoder built."""
    if metadata.get("encoder_identity") != identity(encoder):
        raise InputError(
            f"the bank {path} was built by the encoder {metadata.get('encoder', 'unknown')} with "
            f"other weights than the given {encoder.name}; build it again with this encoder."
        )


def load(path: str | os.PathLike, encoder: Encoder) -> jax.Array | Compressed:
    """Reads a bank; a damaged or another encoder's raises `InputError`."""
    tree, metadata = weights.load(path)
    check_encoder(path, metadata, encoder)
    if set(tree) != {"embeddings"} or tree["embeddings"].ndim != 2 or not tree["embeddings"].size:
        raise InputError(f"{path} is not a memory bank; expected one array [N, d] in it.")
    bank = jnp.asarray(tree["embeddings"])
    if bank.dtype.name not in STORAGE:
        raise InputError(
            f"{path} is not a memory bank: it holds {bank.dtype}, expected {', '.join(STORAGE)}."
        )
    if "radius" not in metadata:
        return bank
    try:
        return Compressed(bank, jnp.float32(float(metadata["radius"])))
    except ValueError:
        raise InputError(
            f"{path} has the covering radius {metadata['radius']!r}, which is no number; it is "
            "damaged: build the bank again."
        ) from None
