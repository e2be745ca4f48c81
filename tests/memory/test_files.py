import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from ecood import encoders, memory, weights
from ecood.errors import InputError
from tests import small


@pytest.fixture(scope="module")
def bank():
    return memory.build(small.encoder(), small.images(5))


@pytest.mark.parametrize("dtype", memory.STORAGE)
def test_a_saved_bank_is_the_same_in_its_own_dtype(bank, dtype, tmp_path):
    path = tmp_path / "bank.safetensors"
    memory.save(path, bank.astype(dtype), small.encoder())
    loaded = memory.load(path, small.encoder())
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, bank.astype(dtype))
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata()["encoder"] == "random_features"
    assert path.stat().st_size < bank.size * bank.astype(dtype).itemsize + 1000


def test_a_compressed_bank_keeps_its_radius(bank, tmp_path):
    path = tmp_path / "bank.safetensors"
    compressed = memory.compress(bank, 2, "bfloat16")
    memory.save(path, compressed, small.encoder())
    loaded = memory.load(path, small.encoder())
    assert isinstance(loaded, memory.Compressed)
    assert loaded.radius == compressed.radius > 0
    np.testing.assert_array_equal(loaded.bank, compressed.bank)


def test_a_bank_of_an_encoder_that_has_no_name_is_not_written(bank, tmp_path):
    nameless = encoders.encoder(lambda images: images.reshape(len(images), -1))
    with pytest.raises(InputError, match="name is <lambda>, as that of every lambda"):
        memory.save(tmp_path / "bank", bank, nameless)
    assert not [*tmp_path.iterdir()]


def test_a_bank_of_another_encoder_is_refused(bank, tmp_path):
    path = tmp_path / "bank.safetensors"
    memory.save(path, bank, small.encoder())
    other = encoders.random_features(jax.random.key(4), 3)
    with pytest.raises(InputError, match="was built by the encoder random_features with other"):
        memory.load(path, other)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tree, meta: (tree, {}), "was built by the encoder unknown"),
        (lambda tree, meta: ({"rows": jnp.ones((2, 3))}, meta), "is not a memory bank"),
        (lambda tree, meta: ({"embeddings": jnp.ones(3)}, meta), "is not a memory bank"),
        (lambda tree, meta: ({"embeddings": jnp.ones((0, 3))}, meta), "is not a memory bank"),
        (
            lambda tree, meta: ({"embeddings": jnp.ones((2, 3), jnp.int8)}, meta),
            "it holds int8, expected float32, bfloat16, float8_e4m3fn",
        ),
        (lambda tree, meta: (tree, meta | {"radius": "wide"}), "the covering radius 'wide'"),
    ],
)
def test_a_file_that_is_no_bank_is_refused(bank, change, problem, tmp_path):
    path = tmp_path / "bank.safetensors"
    memory.save(path, bank, small.encoder())
    weights.save(path, *change(*weights.load(path)))
    with pytest.raises(InputError, match=problem) as caught:
        memory.load(path, small.encoder())
    assert "\n" not in str(caught.value)
