import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import memory
from ecood.errors import InputError

UNROUNDED, ROUNDED = [None], ["bfloat16", "float8_e4m3fn"]


def unit(seed, n, d):
    return memory.unit_norm(jax.random.normal(jax.random.key(seed), (n, d)))


@pytest.fixture(scope="module")
def bank():
    return unit(0, 300, 6)


def distances(a, b):
    a, b = (np.asarray(x, np.float32).astype(np.float64) for x in (a, b))
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


def test_the_kept_rows_are_rows_and_cover_the_others_within_the_radius(bank):
    kept, radius = memory.compress(bank, 40)
    apart = distances(bank, kept)
    assert kept.shape == (40, 6)
    assert np.all(apart.min(0) == 0)
    assert len(np.unique(apart.argmin(0))) == 40
    np.testing.assert_allclose(radius, apart.min(1).max(), rtol=1e-5)
    assert radius >= apart.min(1).max()


def test_rows_are_chosen_farthest_first(bank):
    kept, _ = memory.compress(bank, 12)
    for count in range(1, 12):
        reach = distances(bank, kept[:count]).min(1)
        farthest = distances(kept[count : count + 1], kept[:count]).min()
        np.testing.assert_allclose(farthest, reach.max(), rtol=1e-5)


def test_the_radius_is_at_most_twice_the_smallest_possible():
    points = unit(1, 12, 3)
    _, radius = memory.compress(points, 3)
    apart = distances(points, points)
    best = min(apart[:, list(c)].min(1).max() for c in itertools.combinations(range(12), 3))
    assert best <= radius <= 2 * best


@pytest.mark.parametrize("dtype", UNROUNDED + ROUNDED)
@pytest.mark.parametrize("size", [1, 10, 100, None])
def test_no_similarity_moves_by_more_than_the_radius(bank, size, dtype):
    small = memory.compress(bank, size, dtype)
    queries = jnp.concatenate([unit(2, 2000, 6), bank])
    before = np.asarray(memory.nearest_similarity(bank, queries))
    after = np.asarray(memory.nearest_similarity(small, queries))
    assert np.all(np.abs(after - before) <= small.radius + 1e-6)
    if dtype is None:
        assert np.all(after <= before + 1e-6)


def test_the_bound_is_attained(bank):
    small = memory.compress(bank, 10)
    apart = distances(bank, small.bank)
    lost = apart.min(1).argmax()
    step = bank[lost] - small.bank[apart[lost].argmin()]
    query = memory.unit_norm(step)[None]
    fall = query @ bank[lost] - query @ small.bank[apart[lost].argmin()]
    np.testing.assert_allclose(fall, small.radius, rtol=1e-4)


@pytest.mark.parametrize("dtype", ROUNDED)
def test_rounding_alone_has_its_own_radius(bank, dtype):
    small = memory.compress(bank, dtype=dtype)
    assert small.bank.dtype == dtype
    np.testing.assert_array_equal(small.bank, bank.astype(dtype))
    lost = np.linalg.norm(np.asarray(bank) - np.asarray(small.bank, np.float32), axis=1).max()
    np.testing.assert_allclose(small.radius, lost, rtol=1e-5)
    assert small.radius <= {"bfloat16": 2**-8, "float8_e4m3fn": 2**-4}[dtype]


def test_nothing_left_out_and_nothing_rounded_has_radius_zero(bank):
    for size in (None, 300, 1000):
        kept, radius = memory.compress(bank, size)
        np.testing.assert_array_equal(kept, bank)
        assert radius == 0


def test_duplicates_cost_nothing(bank):
    twice = jnp.concatenate([bank[:20], bank[:20]])
    assert memory.compress(twice, 20).radius == 0
    assert memory.compress(twice, 30).radius == 0


def test_a_rounded_bank_can_be_compressed(bank):
    rounded = bank.astype(jnp.bfloat16)
    kept, radius = memory.compress(rounded, 40)
    assert kept.dtype == jnp.bfloat16
    assert radius >= distances(rounded, kept).min(1).max()


def test_a_size_or_a_storage_that_makes_no_sense_is_refused(bank):
    with pytest.raises(InputError, match="size is 0; expected a whole number, 1 or more"):
        memory.compress(bank, 0)
    with pytest.raises(InputError, match=r"size is 2\.5; expected a whole number, 1 or more"):
        memory.compress(bank, 2.5)
    with pytest.raises(InputError, match="a memory bank is stored in"):
        memory.compress(bank, 10, "int4")
