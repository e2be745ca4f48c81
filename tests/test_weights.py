import numpy as np
import pytest

from ecood import weights
from ecood.errors import InputError

TREE = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.int32([1, 2])}


def test_round_trip_keeps_names_values_dtypes_and_metadata(tmp_path):
    weights.save(tmp_path / "w.safetensors", TREE, {"note": "x"})
    tree, metadata = weights.load(tmp_path / "w.safetensors")
    assert metadata == {"note": "x"}
    np.testing.assert_array_equal(tree["a"]["b"], TREE["a"]["b"])
    assert tree["c"].dtype == np.int32
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_damaged_files_are_refused(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    weights.save(path, TREE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        weights.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no weights file"):
        weights.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["a"].pop("b"), "a/b is missing"),
        (lambda t: t.update(d=np.zeros(1)), "d is not part of the model"),
        (lambda t: t.update(c=np.int32([1])), r"c has shape \[1\], expected \[2\]"),
        (lambda t: t.update(c=np.float32([1, 2])), "c is float32, expected int32"),
    ],
)
def test_the_first_difference_is_named(change, words):
    tree = {"a": dict(TREE["a"]), "c": TREE["c"]}
    change(tree)
    with pytest.raises(InputError, match=words):
        weights.match(tree, TREE, "the flow")


def test_matching_weights_pass():
    assert weights.match(TREE, TREE, "the flow")["a"]["b"].shape == (2, 3)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), weights.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        weights.save(tmp_path / "file" / "w.safetensors", TREE)
