import os
import pathlib
import subprocess
import sys
import tempfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ecood import weights
from ecood.errors import InputError
from tests.drawn import quickly

TREE = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.int32([1, 2])}


def test_round_trip_keeps_names_values_dtypes_and_metadata(tmp_path):
    weights.save(tmp_path / "w.safetensors", TREE, {"note": "x"})
    tree, metadata = weights.load(tmp_path / "w.safetensors")
    assert metadata == {"note": "x"}
    np.testing.assert_array_equal(tree["a"]["b"], TREE["a"]["b"])
    assert tree["c"].dtype == np.int32
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_what_is_the_same_is_the_same_bytes_each_time(tmp_path):
    metadata = {f"name {i}": "é" for i in range(9)}
    for each in "ab":
        weights.save(tmp_path / each, TREE, metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert weights.load(tmp_path / "a")[1] == metadata
    with safetensors.safe_open(tmp_path / "a", "numpy") as file:
        assert file.metadata() == metadata
        np.testing.assert_array_equal(file.get_tensor("a/b"), TREE["a"]["b"])


def test_a_tree_of_nothing_comes_back(tmp_path):
    for metadata in ({}, {"note": "x"}):
        weights.save(tmp_path / "w", {}, metadata)
        assert weights.load(tmp_path / "w") == ({}, metadata)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float8_e4m3fn", "bfloat16", "float16"])
def test_every_dtype_comes_back(tmp_path, dtype):
    array = jnp.asarray([[0, 1, 2]]).astype(dtype)
    weights.save(tmp_path / "w.safetensors", {"x": array, "scalar": array[0, 1], "none": array[:0]})
    tree, _ = weights.load(tmp_path / "w.safetensors")
    assert tree["x"].dtype == tree["scalar"].dtype == dtype
    np.testing.assert_array_equal(tree["x"], array)
    assert tree["scalar"].shape == () and tree["none"].shape == (0, 3)


NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)
SHAPES = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
LEAVES = arrays(st.sampled_from(["bool", "uint8", "int32", "uint32", "float16", "float32"]), SHAPES)
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3))


@quickly(max_examples=30)
@given(st.dictionaries(NAMES, TREES, min_size=1, max_size=3), st.dictionaries(NAMES, st.text()))
def test_any_tree_comes_back_bit_by_bit(tree, metadata):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "w.safetensors"
        weights.save(path, tree, metadata)
        again, told = weights.load(path)
    assert told == metadata
    flat, found = (traverse_util.flatten_dict(t) for t in (tree, again))
    assert flat.keys() == found.keys()
    for name, leaf in flat.items():
        assert found[name].dtype == leaf.dtype and found[name].shape == leaf.shape
        assert found[name].tobytes() == leaf.tobytes()


@quickly(max_examples=100)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_file_with_other_bytes_in_it_is_read_or_refused_in_one_sentence(noise, at):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "w.safetensors"
        weights.save(path, TREE, {"note": "x"})
        content = bytearray(path.read_bytes())
        content[at : at + len(noise)] = noise
        path.write_bytes(content)
        try:
            weights.load(path)
        except InputError as error:
            assert "\n" not in str(error)


def test_a_dtype_that_is_not_known_is_named(tmp_path):
    weights.save(tmp_path / "w.safetensors", {"x": jnp.ones(2, jnp.float8_e5m2)})
    with pytest.raises(InputError, match="stores x as F8_E5M2; expected one of BOOL, U8"):
        weights.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_damaged_files_are_refused(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    weights.save(path, TREE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        weights.load(path)


def test_a_pipe_or_device_is_written_and_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with weights.atomic_path(tmp_path / "pipe") as temporary:
        assert temporary.parent.parent != tmp_path
        temporary.write_bytes(b"content")
    assert (tmp_path / "pipe").is_fifo() and os.read(reader, 99) == b"content"
    os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.fixture
def opened(tmp_path):
    """A file that this process has open and has written a line to, and the path of its number."""
    if not os.path.isdir("/dev/fd"):
        pytest.skip("needs /dev/fd")
    with (tmp_path / "log").open("w+b", buffering=0) as file:
        file.write(b"before\n")
        yield tmp_path / "log", pathlib.Path(f"/dev/fd/{file.fileno()}")


@pytest.mark.parametrize("link", [False, True])
def test_an_open_file_is_written_on_where_it_is(opened, tmp_path, link):
    log, number = opened
    if link:
        (tmp_path / "link").symlink_to(number)
    given, inode = tmp_path / "link" if link else number, log.stat().st_ino
    weights.check_writable(given)
    for _ in range(2):
        with weights.atomic_path(given) as path:
            path.write_bytes(b"row\n")
    assert weights.is_stream(given) and not weights.is_stream(log)
    assert log.read_bytes() == b"before\nrow\nrow\n" and log.stat().st_ino == inode


def test_what_is_no_open_file_or_open_to_read_alone_is_refused_before_the_work(opened):
    log, _ = opened
    with pytest.raises(InputError, match="Bad file descriptor"):
        weights.check_writable("/dev/fd/9876")
    with log.open("rb") as file, pytest.raises(InputError, match="Bad file descriptor"):
        weights.check_writable(f"/dev/fd/{file.fileno()}")
    assert log.read_bytes() == b"before\n"


def test_a_reader_that_has_gone_is_no_full_disk():
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError), weights.atomic_path(f"/dev/fd/{writer}") as path:
        path.write_bytes(b"content")
    os.close(writer)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    weights.save(tmp_path / "w.safetensors", TREE)
    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\); .* permissions"):
        weights.load(tmp_path / "w.safetensors")


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


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "folder"
    for content in ("old", "new"):
        with weights.atomic_directory(path) as temporary:
            (temporary / content).write_text(content)
    assert [p.name for p in path.iterdir()] == ["new"]
    with pytest.raises(RuntimeError, match="stop"), weights.atomic_directory(path) as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError("stop")
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import pathlib, sys
from ecood import weights
folder, file, name = map(pathlib.Path, sys.argv[1:])
for turn in range(100):
    with weights.atomic_directory(folder) as temporary:
        for part in "ab":
            (temporary / part).write_text(name.name)
    weights.save(file, {"a": turn * __import__("numpy").ones(1000)}, {"by": name.name})
"""


def test_two_processes_writing_one_place_leave_it_whole(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "w.safetensors"
    commands = [[sys.executable, "-c", WRITER, folder, file, name] for name in ("one", "two")]
    writers = [subprocess.Popen([*map(str, c)], stderr=subprocess.PIPE) for c in commands]
    while any(writer.poll() is None for writer in writers):
        if file.exists():
            tree, _ = weights.load(file)  # whole at every moment
            assert len(np.unique(tree["a"])) == 1
    for writer in writers:
        assert writer.returncode == 0, writer.communicate()[1].decode()
        writer.stderr.close()
    assert (folder / "a").read_text() == (folder / "b").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "w.safetensors"]


def test_where_nothing_can_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path, folder, words in (
        (tmp_path, False, "it is a directory.*; give a file's name"),
        (tmp_path / "new" / "..", False, "it is a directory"),
        (tmp_path / "file", True, "it is a file.*; give a folder's name"),
        (tmp_path / "file" / "x", False, "Not a directory|cannot write"),
    ):
        with pytest.raises(InputError, match=words):
            weights.check_writable(path, folder=folder)
    for path, folder in (("file", False), ("new/x", False), ("new", True), (".", True)):
        weights.check_writable(tmp_path / path, folder=folder)

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(weights.tempfile, "TemporaryFile", refuse)
    for folder in (True, False):
        with pytest.raises(InputError, match="Read-only file system.*; choose a folder that can"):
            weights.check_writable(tmp_path / "new", folder=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_whose_place_cannot_be_taken_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for check in (
        lambda path: weights.check_writable(path, folder=True),
        lambda path: weights.atomic_directory(path).__enter__(),
    ):
        with pytest.raises(InputError, match="it is the current directory.*; name a folder in it"):
            check(".")
        with pytest.raises(InputError, match="it is where a file system is mounted"):
            check("/")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_written_where_a_link_points(tmp_path):
    (tmp_path / "there").mkdir()
    for link, target in (("old", "there"), ("new", "nowhere")):
        (tmp_path / link).symlink_to(tmp_path / target)
        weights.check_writable(tmp_path / link, folder=True)
        with weights.atomic_directory(tmp_path / link) as folder:
            (folder / "x").write_text(link)
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / target / "x").read_text() == link


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path):
    for write in (weights.atomic_path, weights.atomic_directory):
        for letter, count in (("x", 255), ("ü", 127)):
            path = tmp_path / (letter * count)
            weights.check_writable(path, folder=write is weights.atomic_directory)
            with write(path) as new:
                new.is_dir() or new.write_text("")
            assert path.exists()
            path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(InputError, match=r"\(File name too long\); give another name"):
        weights.check_writable(tmp_path / ("x" * 256))


def test_a_name_that_is_an_array_and_a_group_is_refused(tmp_path):
    arrays = {"a": np.zeros(1, np.float32), "a/x": np.zeros(1, np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="has a as an array and as a group of arrays"):
        weights.load(tmp_path / "x.safetensors")
