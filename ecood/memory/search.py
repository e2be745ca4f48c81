"""The similarity to the nearest items of the bank: bfloat16 screens, float32 decides."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ecood.devices import put
from ecood.errors import InputError, check_share, check_whole
from ecood.memory.bank import Compressed

__all__ = ["check_rows", "nearest", "nearest_similarities", "nearest_similarity", "shard"]

CHUNK = 512  # bank rows compared at once
AT_ONCE = 2**20  # products up to which there are no chunks, of a bank of eight times the numbers
SMALL, FEW = 8192, 128  # bank rows, queries up to which a second pass does not pay
REFINED = 32  # queries compared with a chunk in float32 at once
WIDE_CHUNK = 2**16  # bank rows in one `approx_max_k`
AXIS = "bank"  # of the mesh of devices


def nearest_similarity(
    bank: jax.Array | Compressed, embeddings: jax.Array, *, recall_target: float | None = None
) -> jax.Array:
    """The similarity s = max_i <e, m_i>: float32 [B], in [-1, 1] up to rounding; NaN from NaN.

    A small bank, or any for few queries, is multiplied in float32: at once if that makes at most a
    million products of a bank of at most 8 million numbers, else chunk by chunk. A larger one is
    searched twice: first in bfloat16, which matrix units multiply two to sixteen times as fast,
    with a bound of how much rounding can have moved the largest product of each chunk; then in
    float32 where the bound leaves it open whether a chunk holds the nearest item. Beside bank and
    queries it takes the memory of a chunk, or of a million products, and [B, N / 512] floats.

    The bank, [N, d], may be compressed or sharded; it and the embeddings, float [B, d],
    have unit norm. A `recall_target` is for one pass in bfloat16 by
    `jax.lax.approx_max_k`, made for TPU; its error, below 0.008, is that of rounding
    alone, since it keeps the largest of every bin.

    Raises:
      InputError: for an empty bank, embeddings of another width, or a `recall_target` that is no
        share.

    Source: for approx_max_k, Chern et al. 2022, "TPU-KNN: K nearest neighbor search at
    peak FLOP/s".
    """
    bank = bank.bank if isinstance(bank, Compressed) else bank
    check_rows(bank, embeddings)
    if recall_target is not None:
        check_share("recall_target", recall_target, "a share, 0 < r <= 1", whole=True)
    embeddings = embeddings.astype(jnp.float32)
    count = embeddings.shape[0]
    known = isinstance(count, int)  # of an export it may be a symbol
    sharding = jax.typeof(bank).sharding
    axis = sharding.spec[0]

    def search(rows: jax.Array, embeddings: jax.Array) -> jax.Array:
        if recall_target is not None:

            def largest(products: jax.Array) -> jax.Array:
                return jax.lax.approx_max_k(products.T, 1, recall_target=recall_target)[0][:, 0]

            found = _one_pass(rows, embeddings.astype(jnp.bfloat16), WIDE_CHUNK, largest)
        elif known and count * len(rows) <= AT_ONCE and rows.size <= 8 * AT_ONCE:
            found = jnp.max(_products(rows.astype(jnp.float32), embeddings), axis=0)
        elif known and count > FEW and len(rows) > SMALL:
            found = _two_passes(rows, embeddings)
        else:
            found = _one_pass(rows, embeddings, CHUNK, functools.partial(jnp.max, axis=0))
        return found if axis is None else jax.lax.pmax(found, axis)

    if axis is not None:
        specs = (PartitionSpec(axis, None), PartitionSpec())
        options = {"mesh": sharding.mesh, "in_specs": specs, "out_specs": specs[1]}
        search = jax.shard_map(search, **options, check_vma=False)
    similarity = search(bank, embeddings)
    # A maximum that XLA fuses with the products may lose a NaN.
    return jnp.where(jnp.any(jnp.isnan(embeddings), axis=1), jnp.nan, similarity)


def nearest_similarities(
    bank: jax.Array | Compressed, embeddings: jax.Array, neighbours: int
) -> jax.Array:
    """The k largest <e, m_i>, the largest first: float32 [B, k]; NaN from NaN.

    k is `neighbours`, or N if the bank, [N, d], has fewer rows. The search is exact: products are
    float32, chunk by chunk, so beside bank and queries it takes the memory of a chunk. The bank
    may be compressed, which gives the neighbours among its own rows; the radius bounds the
    nearest one's similarity alone. Embeddings are float [B, d].

    Raises:
      InputError: for no neighbours, or a sharded bank, whose repeated rows would count twice.
    """
    check_whole("neighbours", neighbours)
    bank = bank.bank if isinstance(bank, Compressed) else bank
    if jax.typeof(bank).sharding.spec[0] is not None:
        raise InputError(
            "the bank is shared out over devices, where only the nearest item is searched for; "
            "give the bank as memory.build made it."
        )
    found, _ = nearest(bank, embeddings, min(neighbours, len(bank)))
    return jnp.where(jnp.any(jnp.isnan(embeddings), axis=1, keepdims=True), jnp.nan, found)


def check_rows(bank: jax.Array, embeddings: jax.Array) -> None:
    """Refuses embeddings that cannot be compared with the bank's rows."""
    fits = len(bank.shape) == len(embeddings.shape) == 2 and bank.shape[0] > 0
    if not (fits and bank.shape[1] == embeddings.shape[1]):
        raise InputError(
            f"the bank has the shape {list(bank.shape)}, the embeddings {list(embeddings.shape)}; "
            "expected [N, d] and [B, d], N at least 1."
        )


def nearest(
    bank: jax.Array | Compressed, embeddings: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """The rows of the bank most similar to each embedding, the most similar first.

    Exact in float32, in one pass, with the memory of a chunk. A sharded bank is first gathered on
    every device.

    Args:
      bank: [N, d], unit norm, maybe compressed, whose rows are then those that it kept.
      embeddings: float [B, d], unit norm.
      count: rows wanted of each, K; 1 <= K <= N.

    Returns:
      (similarity float32 [B, K], row int32 [B, K]).

    Raises:
      InputError: for a count that the bank does not have, or embeddings of another width.
    """
    bank = bank.bank if isinstance(bank, Compressed) else bank
    check_rows(bank, embeddings)
    check_whole("count", count)
    if count > len(bank):
        raise InputError(f"count is {count}; expected 1 to {len(bank)}, the rows of the bank.")
    sharding = jax.typeof(bank).sharding
    if sharding.spec[0] is not None:
        bank = jax.sharding.reshard(bank, NamedSharding(sharding.mesh, PartitionSpec(None, None)))
    queries, rows = embeddings.astype(jnp.float32), min(CHUNK, len(bank))

    def step(chunk: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        start = jnp.minimum(chunk * rows, len(bank) - rows).astype(jnp.int32)
        row = start + jnp.arange(rows, dtype=jnp.int32)
        products = _products(queries, _rows(bank, chunk, rows).astype(jnp.float32))
        seen = row < chunk * rows  # the last chunk may overlap the one before
        products = jnp.where(seen[None], -jnp.inf, products)
        row = jnp.broadcast_to(row[None], products.shape)
        similarity, row = (jnp.concatenate(p, 1) for p in zip(best, (products, row), strict=True))
        similarity, place = jax.lax.top_k(similarity, count)
        return similarity, jnp.take_along_axis(row, place, axis=1)

    shape = (queries.shape[0], count)
    start = jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)
    return jax.lax.fori_loop(0, -(-len(bank) // rows), step, start)


def shard(
    bank: jax.Array | Compressed, devices: Sequence[jax.Device] | None = None
) -> jax.Array | Compressed:
    """Shares the rows of a bank out over the devices, all if None.

    The sharding is part of the array's type, so each device compares the queries with
    its own rows, and one float a query crosses between devices. The last row is
    repeated until the devices divide N, which changes no maximum.
    """
    if isinstance(bank, Compressed):
        return bank._replace(bank=shard(bank.bank, devices))
    devices = np.asarray(jax.devices() if devices is None else devices)
    missing = -len(bank) % len(devices)
    padded = jnp.concatenate([bank, jnp.repeat(bank[-1:], missing, axis=0)])
    mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Explicit,))
    return put(padded, NamedSharding(mesh, PartitionSpec(AXIS, None)))


def _one_pass(
    bank: jax.Array, queries: jax.Array, rows: int, largest: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """`largest(products [R, B]) -> [B]` of chunks of so many rows, in the dtype of the queries."""
    rows = min(rows, len(bank))

    def step(chunk: jax.Array, best: jax.Array) -> jax.Array:
        products = _products(_rows(bank, chunk, rows).astype(queries.dtype), queries)
        return jnp.maximum(best, largest(products))

    start = jnp.full(queries.shape[0], -jnp.inf, jnp.float32)
    return jax.lax.fori_loop(0, -(-len(bank) // rows), step, start)


def _two_passes(bank: jax.Array, embeddings: jax.Array) -> jax.Array:
    upper, floor = bounds(bank, embeddings)

    def refine(chunk: jax.Array, best: jax.Array) -> jax.Array:
        def some(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            best, undecided = carry
            (which,) = jnp.nonzero(undecided, size=REFINED, fill_value=embeddings.shape[0])
            queries = embeddings.at[which].get(mode="fill", fill_value=0)
            items = _rows(bank, chunk, CHUNK).astype(jnp.float32)
            found = jnp.max(_products(queries, items), axis=1)
            best = best.at[which].max(found, mode="drop")
            return best, undecided.at[which].set(False, mode="drop")

        # Written so that a NaN is undecided.
        undecided = ~(upper[chunk] < jnp.maximum(best, floor))
        return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), some, (best, undecided))[0]

    return jax.lax.fori_loop(0, len(upper), refine, jnp.full_like(floor, -jnp.inf))


def bounds(bank: jax.Array, embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Bounds of the largest product with each chunk, from products in bfloat16.

    Write ê for e in bfloat16, e = ê + δ, and likewise m = m̂ + μ. Then <e, m> - <ê, m̂>
    is <δ, m> + <ê, μ>, at most |δ| |m| + |ê| |μ| by Cauchy and Schwarz.

    Returns (upper, floor), float32: the largest product with each chunk is at most
    upper [chunks, B], and that with the whole bank at least floor [B].
    """
    count, chunks = embeddings.shape[0], -(-len(bank) // CHUNK)
    rounded = embeddings.astype(jnp.bfloat16)
    # The sums of d terms, here and in float32, are each off by at most d eps / 2 of the norms.
    sums = bank.shape[1] * jnp.finfo(jnp.float32).eps * _norm(embeddings)
    lost, length = _norm(embeddings, rounded) + sums, _norm(rounded)

    def bound(chunk: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        upper, floor = carry
        items = _rows(bank, chunk, CHUNK)
        coarse = items.astype(jnp.bfloat16)
        largest = jnp.max(_products(rounded, coarse), axis=1)
        error = lost * jnp.max(_norm(items)) + length * jnp.max(_norm(items, coarse))
        return upper.at[chunk].set(largest + error), jnp.maximum(floor, largest - error)

    start = jnp.zeros((chunks, count)), jnp.full(count, -jnp.inf)
    return jax.lax.fori_loop(0, chunks, bound, start)


def _rows(bank: jax.Array, chunk: jax.Array, rows: int) -> jax.Array:
    """The chunk's rows; the last chunk, clamped, may overlap the one before."""
    # The barrier keeps XLA from converting all of a bank to float32 ahead of the loop.
    bank, chunk = jax.lax.optimization_barrier((bank, chunk))
    return jax.lax.dynamic_slice_in_dim(bank, chunk * rows, rows)


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """[N, d] and [M, d] to [N, M]: exact products of bfloat16 or float32, summed in float32."""
    options = {"precision": "highest", "preferred_element_type": jnp.float32}
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), **options)


def _norm(x: jax.Array, less: jax.Array | float = 0.0) -> jax.Array:
    """|x - less| of each row, in float32: [B, d] -> [B]."""
    return jnp.linalg.norm(x.astype(jnp.float32) - jnp.asarray(less).astype(jnp.float32), axis=1)
