import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import memory
from ecood.errors import InputError
from ecood.memory import search

nearest = jax.jit(memory.nearest_similarity, static_argnames="recall_target")
several = jax.jit(memory.nearest_similarities, static_argnames="neighbours")


def unit(seed, n, d, centre=0.0):
    """Rows of unit norm; by numpy, as JAX would compile each step for each shape."""
    rows = centre + np.random.default_rng(seed).normal(size=(n, d))
    return np.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def near_duplicates(seed, n, d):
    """Rows that all look alike: many are within bfloat16's rounding of the nearest."""
    return unit(seed, n, d, centre=100 / d**0.5)


def with_nan(queries, row):
    queries[row, 2] = np.nan
    return queries


def reference(bank, queries):
    products = np.asarray(queries, np.float64) @ np.asarray(bank, np.float32).astype(np.float64).T
    return products.max(1)


@pytest.fixture(autouse=True)
def small_banks_have_two_chunks(monkeypatch):
    monkeypatch.setattr(search, "CHUNK", 64)
    monkeypatch.setattr(search, "SMALL", 128)
    monkeypatch.setattr(search, "FEW", 0)
    monkeypatch.setattr(search, "WIDE_CHUNK", 128)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 129, 192, 1000])
def test_the_search_is_exact_for_any_bank_size(n):
    bank, queries = unit(0, n, 24), unit(1, 5, 24)
    np.testing.assert_allclose(nearest(bank, queries), reference(bank, queries), atol=1e-6)


@pytest.mark.parametrize("rows", [unit, near_duplicates])
@pytest.mark.parametrize("dtype", memory.STORAGE)
def test_the_screened_search_is_as_exact_as_float32(rows, dtype):
    bank, queries = rows(0, 1000, 24).astype(dtype), rows(1, 100, 24)
    found = nearest(bank, queries)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference(bank, queries), atol=1e-6)
    coarse = reference(bank.astype(jnp.bfloat16), queries.astype(jnp.bfloat16).astype(jnp.float32))
    assert np.abs(coarse - reference(bank, queries)).max() > 1e-5  # rounding alone would be seen


def test_no_unit_norm_is_needed_for_exactness():
    bank, queries = 30 * unit(0, 1000, 24), 7 * unit(1, 20, 24)
    np.testing.assert_allclose(nearest(bank, queries), reference(bank, queries), rtol=1e-5)


@pytest.mark.parametrize("n", [100, 1000])
def test_the_first_and_the_last_row_count(n):
    bank = unit(0, n, 8)
    for row in (0, n - 1):
        query = bank[row : row + 1]
        np.testing.assert_allclose(nearest(bank, query), 1.0, atol=1e-6)
        assert float(nearest(np.delete(bank, row, axis=0), query)[0]) < 1 - 1e-4


@pytest.mark.parametrize("n", [100, 1000])
def test_a_query_that_is_no_number_has_no_similarity_and_harms_no_other(n):
    bank, queries = unit(0, n, 8), with_nan(unit(1, 3, 8), 1)
    found = nearest(bank, queries)
    np.testing.assert_array_equal(jnp.isnan(found), [False, True, False])
    np.testing.assert_allclose(found[::2], reference(bank, queries[::2]), atol=1e-6)


@pytest.mark.parametrize("n", [100, 600, 9000])
@pytest.mark.parametrize("count", [64, 200])
def test_nor_at_the_sizes_that_are_used(n, count, monkeypatch):
    monkeypatch.undo()
    bank, queries = unit(0, n, 64), with_nan(unit(1, count, 64), 0)
    found = jax.jit(memory.nearest_similarity)(bank, queries)
    np.testing.assert_array_equal(jnp.isnan(found), np.arange(count) == 0)
    np.testing.assert_allclose(found[1:], reference(bank, queries[1:]), atol=1e-6)


@pytest.mark.parametrize("count, screened", [(128, False), (129, True)])
def test_a_large_bank_is_screened_for_many_queries_alone(count, screened, monkeypatch):
    monkeypatch.undo()
    shapes = ((9000, 64), (count, 64))
    given = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    assert ("bf16" in str(jax.make_jaxpr(memory.nearest_similarity)(*given))) == screened


def test_a_similarity_does_not_depend_on_the_batch():
    bank, queries = unit(0, 1000, 24), unit(1, 50, 24)
    together = nearest(bank, queries)
    np.testing.assert_allclose(nearest(bank, queries[3:4]), together[3:4], atol=1e-6)
    np.testing.assert_array_equal(nearest(bank, queries[::-1])[::-1], together)


def test_the_bounds_hold_for_every_chunk():
    bank, queries = unit(0, 1000, 24).astype(jnp.bfloat16), unit(1, 20, 24)
    upper, floor = jax.jit(search.bounds)(bank, queries)
    products = np.asarray(queries, np.float64) @ np.asarray(bank, np.float64).T
    for chunk in range(15):  # the sixteenth overlaps
        assert np.all(upper[chunk] >= products[:, 64 * chunk : 64 * chunk + 64].max(1))
    assert np.all(floor <= products.max(1))
    assert float((upper.max(0) - floor).max()) < 4 * 2**-8  # and are not slack


def test_one_bfloat16_pass_is_off_by_no_more_than_rounding_and_finds_the_nearest():
    bank, queries = unit(0, 1000, 24), unit(1, 100, 24)
    found = nearest(bank, queries, recall_target=0.9)
    np.testing.assert_allclose(found, reference(bank, queries), atol=0.008)
    rounded = (x.astype(jnp.bfloat16).astype(jnp.float32) for x in (bank, queries))
    np.testing.assert_allclose(found, reference(*rounded), atol=1e-6)


@pytest.mark.parametrize("dtype", memory.STORAGE)
def test_memory_is_that_of_a_chunk(dtype, monkeypatch):
    monkeypatch.undo()
    bank = jax.ShapeDtypeStruct((200_000, 64), dtype)
    queries = jax.ShapeDtypeStruct((256, 64), jnp.float32)
    compiled = jax.jit(functools.partial(memory.nearest_similarity)).lower(bank, queries).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    chunk = 4 * search.CHUNK * (256 + 64)
    kept = 4 * 256 * (200_000 // search.CHUNK + 1)
    assert temporary < 3 * chunk + kept


@pytest.mark.parametrize("n", [100, 1000])
def test_one_export_serves_all_platforms_and_any_batch(n):
    bank, queries = unit(0, n, 8), unit(1, 7, 8)
    (batch,) = jax.export.symbolic_shape("b")
    program = jax.export.export(
        jax.jit(functools.partial(memory.nearest_similarity)), platforms=("cpu", "cuda", "tpu")
    )(bank, jax.ShapeDtypeStruct((batch, 8), jnp.float32))
    program = jax.export.deserialize(program.serialize())
    np.testing.assert_allclose(program.call(bank, queries), reference(bank, queries), atol=1e-6)


@pytest.mark.reference
@pytest.mark.parametrize("rows", [unit, near_duplicates])
def test_the_similarity_is_that_of_faiss(rows):
    faiss = pytest.importorskip("faiss", reason="the reference")
    bank, queries = rows(0, 1000, 24), rows(1, 50, 24)
    index = faiss.IndexFlatIP(24)
    index.add(np.asarray(bank))
    found = index.search(np.asarray(queries), 1)[0][:, 0]
    np.testing.assert_allclose(nearest(bank, queries), found, atol=1e-6)


FEW_AND_MANY = [(1, 1), (1, 5), (63, 1), (63, 100), (64, 10), (64, 100)]
FEW_AND_MANY += [(65, 5), (65, 100), (129, 10), (129, 100), (1000, 1), (1000, 100)]


@pytest.mark.parametrize(
    ("n", "k", "dtype"),
    [(n, k, "float32") for n, k in FEW_AND_MANY]
    + [(n, k, dtype) for n, k in ((65, 5), (1000, 10)) for dtype in memory.STORAGE[1:]],
)
def test_the_nearest_items_are_those_of_a_sort(n, k, dtype):
    bank, queries = unit(0, n, 24).astype(dtype), unit(1, 9, 24)
    products = np.asarray(queries, np.float64) @ np.float64(np.asarray(bank, np.float32)).T
    expected = -np.sort(-products, axis=1)[:, :k]
    found = several(bank, queries, neighbours=k)
    assert found.dtype == jnp.float32 and found.shape == (9, min(k, n))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_equal_items_are_as_many_neighbours_and_none_counts_twice():
    bank = np.concatenate([unit(0, 64, 8), np.repeat(unit(2, 1, 8), 3, axis=0)])
    found = several(bank, bank[-1:], neighbours=4)
    np.testing.assert_allclose(found[0, :3], 1.0, atol=1e-6)
    assert float(found[0, 3]) < 1 - 1e-4


def test_a_query_that_is_no_number_has_no_neighbours_and_harms_no_other():
    bank, queries = unit(0, 200, 8), with_nan(unit(1, 3, 8), 1)
    found = several(bank, queries, neighbours=5)
    np.testing.assert_array_equal(jnp.isnan(found), np.tile([[False], [True], [False]], 5))
    alone = several(bank, queries[2:], neighbours=5)[0]
    np.testing.assert_allclose(found[2], alone, atol=1e-6)


def test_the_search_for_several_takes_the_memory_of_a_chunk(monkeypatch):
    monkeypatch.undo()
    bank = jax.ShapeDtypeStruct((200_000, 64), jnp.float32)
    queries = jax.ShapeDtypeStruct((256, 64), jnp.float32)
    compiled = several.lower(bank, queries, neighbours=50).compile()
    chunk = 4 * search.CHUNK * (256 + 64)
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * chunk  # of 80 in the products


@pytest.mark.parametrize("target", [0, -1, 1.5, float("nan"), "0.9"])
def test_what_is_no_recall_is_refused(target):
    with pytest.raises(InputError, match="expected a share"):
        memory.nearest_similarity(jnp.eye(4), jnp.eye(4), recall_target=target)


@pytest.mark.parametrize("bank", [jnp.zeros((0, 4)), jnp.eye(5), jnp.ones(4)])
def test_a_bank_that_cannot_be_compared_is_refused(bank):
    searches = memory.nearest_similarity, memory.nearest_similarity_mapped
    for find in (*searches, lambda *at: memory.nearest(*at, 1)):
        with pytest.raises(InputError, match="|".join(("the embeddings", "count is 1"))):
            find(bank, jnp.eye(4))


@pytest.mark.parametrize("k", [0, -1, 2.5])
def test_what_is_no_number_of_neighbours_is_refused(k):
    with pytest.raises(InputError, match="expected a whole number, 1 or more"):
        memory.nearest_similarities(unit(0, 5, 8), unit(1, 2, 8), k)


@pytest.mark.parametrize("n", [5, 64, 65, 200])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_nearest_rows_are_found_in_order(n, dtype):
    bank, queries = unit(0, n, 24).astype(dtype), unit(1, 7, 24)
    products = np.asarray(queries) @ np.asarray(bank, np.float32).T
    similarity, rows = jax.jit(memory.nearest, static_argnums=2)(bank, queries, 5)
    np.testing.assert_array_equal(rows, np.argsort(-products)[:, :5])
    np.testing.assert_allclose(similarity, -np.sort(-products)[:, :5], atol=1e-6)


def test_more_of_the_nearest_than_there_are_is_refused():
    expected = {6: "1 to 5, the rows"} | dict.fromkeys((0, True, 2.5), "a whole number, 1 or more")
    for count, words in expected.items():
        with pytest.raises(InputError, match=f"count is {count}; expected {words}"):
            memory.nearest(unit(0, 5, 24), unit(1, 2, 24), count)
