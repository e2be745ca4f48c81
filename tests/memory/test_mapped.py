import jax
import numpy as np
import pytest

from ecood import memory
from ecood.errors import InputError
from tests import small


def bank_of(n, dtype="float32"):
    rows = memory.unit_norm(jax.random.normal(jax.random.key(0), (n, 24)))
    return rows.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_a_bank_in_its_file_is_searched_part_by_part_with_the_same_result(tmp_path, dtype):
    bank, queries = bank_of(1000, dtype), bank_of(7) * 0.5 + bank_of(14)[7:] * 0.5
    memory.save(tmp_path / "bank", bank, small.encoder())
    mapped = memory.open_bank(tmp_path / "bank", small.encoder())
    assert isinstance(mapped, np.memmap) and mapped.dtype == bank.dtype
    np.testing.assert_array_equal(mapped, bank)
    expected = memory.nearest_similarity(bank, queries)
    memory.nearest_similarity_mapped(mapped, queries, rows=300)
    with small.programs() as made:
        found = memory.nearest_similarity_mapped(mapped, queries, rows=300)  # the last overlaps
    assert not made
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        memory.nearest_similarity_mapped(mapped, queries), expected, atol=1e-6
    )
    bad = queries.at[2, 3].set(np.nan)
    found = memory.nearest_similarity_mapped(mapped, bad, rows=300)
    assert np.isnan(found[2]) and np.isnan(found).sum() == 1


@pytest.mark.parametrize("rows", [0, -3, 2.5])
def test_senseless_parts_are_refused(rows):
    with pytest.raises(InputError, match="rows is .*; expected a whole number, 1 or more"):
        memory.nearest_similarity_mapped(np.eye(4), np.eye(4), rows=rows)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "bank"
    memory.save(path, bank_of(20), small.encoder())
    with pytest.raises(InputError, match="other weights than the given"):
        memory.open_bank(path, small.encoder(seed=4))
    path.write_bytes(path.read_bytes()[:-100])
    for damaged in (path, tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="is not a memory bank"):
            memory.open_bank(damaged, small.encoder())
    path.write_text("no bank, though a long text is in here")
    with pytest.raises(InputError, match="is not a memory bank"):
        memory.open_bank(path, small.encoder())
