"""A smaller bank with a guarantee: fewer rows by greedy k-centre, fewer bits by rounding."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ecood.errors import InputError
from ecood.memory.build import check_storage

__all__ = ["Compressed", "compress"]


class Compressed(NamedTuple):
    """A bank that stands for a larger one."""

    bank: jax.Array  # [n, d]
    # float32 [], r: no image's similarity to this bank differs by more than r from that to
    # the larger one, and unless numbers were rounded it is never higher.
    radius: jax.Array


def compress(
    bank: jax.Array, size: int | None = None, dtype: DTypeLike | None = None
) -> Compressed:
    """Keeps `size` rows that cover the others by greedy choice, rounded to `dtype`.

    Every row m of the bank has a kept row c with |m - c| <= r, the covering radius. For
    an embedding e of norm 1, |<e, m> - <e, c>| = |<e, m - c>| <= |m - c| <= r by Cauchy
    and Schwarz, so the largest similarity falls by at most r; and as the kept rows are
    rows of the bank, it cannot rise. Rounding a kept row to c' moves each similarity by
    at most |c - c'|, which is added to r. The greedy choice takes the row farthest from
    those kept; its radius is at most twice the smallest possible.

    Args:
      bank: [N, d].
      size: rows to keep, in the order of their choice; all if None.
      dtype: what to store them in (see `build`); that of the bank if None.

    Raises:
      InputError: if `size` is not positive, or a bank cannot be stored in `dtype`.

    Source: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance".
    """
    dtype = bank.dtype if dtype is None else check_storage(dtype)
    if size is not None and size < 1:
        raise InputError(f"size is {size}; expected the number of bank rows to keep, at least 1.")
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
