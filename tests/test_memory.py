import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import encoders, memory
from ecood.errors import InputError
from tests import small


def _unit(seed, n, d):
    return memory.unit_norm(jax.random.normal(jax.random.key(seed), (n, d)))


@pytest.mark.parametrize("n", [1, 2, 4095, 4096, 4097, 9000])
def test_nearest_similarity_is_exact_for_any_bank_size(n):
    bank, queries = _unit(0, n, 8), _unit(1, 5, 8)
    expected = (np.asarray(queries, np.float64) @ np.asarray(bank, np.float64).T).max(1)
    np.testing.assert_allclose(memory.nearest_similarity(bank, queries), expected, atol=1e-6)


def test_the_last_row_counts():
    bank = _unit(0, 5000, 8)
    np.testing.assert_allclose(memory.nearest_similarity(bank, bank[-1:]), 1.0, atol=1e-6)
    without = memory.nearest_similarity(bank[:-1], bank[-1:])
    assert float(without[0]) < 1 - 1e-4


def test_memory_is_bounded_by_the_chunk():
    bank = jax.ShapeDtypeStruct((200_000, 64), jnp.float32)
    queries = jax.ShapeDtypeStruct((256, 64), jnp.float32)
    compiled = jax.jit(memory.nearest_similarity).lower(bank, queries).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary < 3 * 4 * memory.CHUNK * (256 + 64)


def test_a_bank_has_unit_norm_and_finds_its_own_images():
    images = small.images(30)
    bank = memory.build(small.encoder(), images)
    np.testing.assert_allclose(jnp.linalg.norm(bank, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(memory.nearest_similarity(bank, bank), 1, atol=1e-5)


def test_an_empty_bank_and_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="the memory bank is empty"):
        memory.build(small.encoder(), small.images(0))
    broken = encoders.encoder(lambda images: jnp.full((len(images), 4), jnp.nan), name="broken")
    with pytest.raises(InputError, match="broken gave embeddings that are NaN"):
        memory.build(broken, small.images(3))


def test_a_bank_of_another_encoder_is_refused(tmp_path):
    path = tmp_path / "bank.safetensors"
    bank = memory.build(small.encoder(), small.images(5))
    memory.save(path, bank, small.encoder())
    np.testing.assert_array_equal(memory.load(path, small.encoder()), bank)
    other = encoders.random_features(jax.random.key(4), 3)
    with pytest.raises(InputError, match="was built by the encoder"):
        memory.load(path, other)
