import jax.numpy as jnp
import numpy as np
import pytest

from ecood import encoders, memory
from ecood.errors import InputError
from tests import small


def test_a_bank_has_unit_norm_and_finds_its_own_images():
    bank = memory.build(small.encoder(), small.images(30))
    assert bank.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(bank, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(memory.nearest_similarity(bank, bank), 1, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1.0, 1e20, 1e38])
def test_embeddings_of_any_size_are_scaled_to_norm_1(scale):
    given = jnp.float32([[3, -4, 0], [0, 0.25, 1]]) * jnp.float32(scale / 4)
    found = memory.unit_norm(given)
    np.testing.assert_allclose(found, [[0.6, -0.8, 0], [0, 0.242536, 0.970143]], atol=1e-6)
    np.testing.assert_array_equal(memory.unit_norm(jnp.zeros((1, 3))), 0)
    assert np.isnan(memory.unit_norm(given.at[0, 0].set(jnp.nan))[0, 0])


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 2**-8), ("float8_e4m3fn", 2**-4)])
def test_storage_rounds_each_row_and_moves_a_similarity_by_at_most_its_bound(dtype, bound):
    exact = memory.build(small.encoder(), small.images(200))
    bank = memory.build(small.encoder(), small.images(200), dtype=dtype)
    assert bank.dtype == dtype
    np.testing.assert_array_equal(bank, exact.astype(dtype))
    queries = memory.build(small.encoder(), small.images(50, seed=1))
    moved = np.abs(
        memory.nearest_similarity(bank, queries) - memory.nearest_similarity(exact, queries)
    )
    assert 0 < moved.max() <= bound


def test_an_empty_bank_and_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="the memory bank is empty"):
        memory.build(small.encoder(), small.images(0))
    broken = encoders.encoder(lambda images: jnp.full((len(images), 4), jnp.nan), name="broken")
    with pytest.raises(InputError, match="broken gave embeddings that are NaN"):
        memory.build(broken, small.images(3))


@pytest.mark.parametrize("dtype", ["int8", "float16", "nonsense", jnp.int32])
def test_another_storage_is_refused(dtype):
    with pytest.raises(InputError, match="dtype is .*; a memory bank is stored in float32, "):
        memory.build(small.encoder(), small.images(3), dtype=dtype)
