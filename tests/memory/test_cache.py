import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import encoders, memory
from ecood.errors import InputError
from ecood.memory import cache
from tests import small

IMAGES = small.images(40)


def cached(directory, encoder=None, images=IMAGES, **options):
    counted = []
    encoder = encoder or small.encoder()
    bank = memory.cached(encoder, images, directory=directory, progress=counted.append, **options)
    return bank, sum(counted)


def test_a_bank_is_built_once(tmp_path):
    first, embedded = cached(tmp_path)
    again, embedded_again = cached(tmp_path)
    assert (embedded, embedded_again) == (40, 0)
    np.testing.assert_array_equal(first, memory.build(small.encoder(), IMAGES))
    np.testing.assert_array_equal(again, first)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_images_another_encoder_and_another_storage_are_other_banks(tmp_path):
    changed = IMAGES.copy()
    changed[7, 3, 2, 1] ^= 1
    other = encoders.random_features(jax.random.key(4), 3)
    for options in (
        {},
        {"images": changed},
        {"images": IMAGES[:39]},
        {"encoder": other},
        {"dtype": "bfloat16"},
    ):
        bank, embedded = cached(tmp_path, **options)
        assert embedded == len(options.get("images", IMAGES))
        assert bank.dtype == options.get("dtype", "float32")
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("dtype", memory.STORAGE)
def test_each_storage_is_read_back(tmp_path, dtype):
    first, _ = cached(tmp_path, dtype=dtype)
    again, embedded = cached(tmp_path, dtype=dtype)
    assert embedded == 0
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: memory.save(path, jnp.ones((3, 512)), small.encoder()),
        lambda path: memory.save(path, jnp.ones((40, 5)), small.encoder()),
        lambda path: memory.save(path, jnp.ones((40, 512)), small.encoder()),
        lambda path: memory.save(path, jnp.ones((40, 512)), encoders.pixels()),
    ],
    ids=["cut", "empty", "rows", "columns", "values", "encoder"],
)
def test_a_damaged_file_is_built_again_with_a_warning(tmp_path, harm):
    first, _ = cached(tmp_path)
    (path,) = tmp_path.iterdir()
    harm(path)
    with pytest.warns(UserWarning, match="building the memory bank again: "):
        again, embedded = cached(tmp_path)
    assert embedded == 40
    np.testing.assert_array_equal(again, first)
    assert cached(tmp_path)[1] == 0


def test_a_function_that_changed_under_the_same_name_is_noticed(tmp_path):
    def mine(scale):
        return encoders.encoder(
            lambda x: jnp.tanh(scale * x.reshape(len(x), -1).astype("float32")), name="mine"
        )

    cached(tmp_path, mine(0.01))
    assert cached(tmp_path, mine(0.01))[1] == 0
    with pytest.warns(UserWarning, match="mine no longer gives the embeddings"):
        bank, embedded = cached(tmp_path, mine(0.02))
    assert embedded == 40
    np.testing.assert_array_equal(bank, memory.build(mine(0.02), IMAGES))


def test_the_users_cache_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cached(None)
    assert len(list((tmp_path / "cache" / "ecood").glob("*.safetensors"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache._user_cache() == tmp_path / ".cache" / "ecood"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*choose a folder"):
        cached(tmp_path / "file" / "cache")


def test_processes_that_build_the_same_bank_at_once_leave_one_whole_file(tmp_path):
    program = textwrap.dedent(
        f"""
        import pathlib
        from ecood import memory
        from tests import small

        folder = pathlib.Path({str(tmp_path)!r})
        for turn in range(20):
            bank = memory.cached(small.encoder(), small.images(40), directory=folder / str(turn))
            assert bank.shape[0] == 40
        """
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    left = [path.suffix for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [".safetensors"] * 20
