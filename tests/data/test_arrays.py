import zipfile

import numpy as np
import pytest

from ecood.data import arrays, stream
from ecood.errors import InputError
from tests.data.image_files import random_images


def test_npz_keys_by_split_and_by_name(tmp_path):
    path = tmp_path / "images.npz"
    plain, named, labels = random_images(0, 4), random_images(1, 3), np.arange(3, dtype=np.uint8)
    np.savez(path, train=plain, cats_train=named, cats_train_labels=labels, test_labels=labels)
    np.testing.assert_array_equal(arrays.load_images(path, "dogs", "train"), plain)
    np.testing.assert_array_equal(arrays.load_images(path, "cats", "train"), named)
    np.testing.assert_array_equal(arrays.load_images(path, "cats", "train", 2), named[:2])
    found = arrays.load_labels(path, "cats", "train", 2)
    assert found.dtype == np.int64 and found.tolist() == [0, 1]
    assert arrays.load_labels(path, "dogs", "test").tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="holds the keys .*; expected dogs_val or val"):
        arrays.load_images(path, "dogs", "val")


def test_npy_is_one_set_for_every_split(tmp_path):
    path = tmp_path / "images.npy"
    images = random_images(0, 4)
    np.save(path, images)
    for split in ("train", "test"):
        found = arrays.load_images(path, "any", split, 3)
        np.testing.assert_array_equal(found, images[:3])
        found[:] = 0  # a copy: the file is not touched
    np.testing.assert_array_equal(np.load(path), images)
    with pytest.raises(InputError, match="holds images alone; expected an .npz file"):
        arrays.load_labels(path, "any", "train")


def test_npz_of_images_alone_is_one_set_for_every_split(tmp_path):
    path, images = tmp_path / "images.npz", random_images(0, 4)
    np.savez(path, images=images)
    for split in ("train", "test"):
        np.testing.assert_array_equal(arrays.load_images(path, "any", split, 3), images[:3])
    with pytest.raises(InputError, match="key images, is uint8 .*; expected integer labels"):
        arrays.load_labels(path, "any", "train")
    np.savez(path, images=images, more=images)
    with pytest.raises(InputError, match="holds the keys images, more; expected any_test or test"):
        arrays.load_images(path, "any", "test")


def test_grey_images_need_no_channel_axis(tmp_path):
    path = tmp_path / "grey.npy"
    images = random_images(0, 4, (6, 5))
    np.save(path, images)
    np.testing.assert_array_equal(arrays.load_images(path, "any", "test"), images[..., None])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "images is float32 .*expected uint8"),
        (np.zeros((2, 3, 16, 16), np.uint8), "1 or 3 channels last: transpose"),
        (np.zeros((3, 28, 28, 4), np.uint8), r"which may be alpha, with images\[..., :3\]\.$"),
        (np.zeros((2, 8, 8, 2), np.uint8), r"which may be alpha, with images\[..., :1\]\.$"),
        (np.zeros((2, 8, 8, 9), np.uint8), "last: convert them to grey or RGB"),
        (np.zeros((0, 4, 4, 3), np.uint8), "is empty"),
        (np.zeros((4, 4), np.uint8), "shape \\[4, 4\\]"),
        (np.uint8(3), "shape \\[\\]"),
        (np.array([{}], object), "cannot be read.*; expected plain arrays"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_no_images_are_refused(tmp_path, suffix, array, words):
    path = tmp_path / f"images{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, test=array)
    with pytest.raises(InputError, match=f"^{path}.*{words}"):
        arrays.load_images(path, "any", "test", 5)


def test_labels_must_be_whole_numbers(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, test_labels=np.zeros(3), train_labels=np.zeros((3, 1), int))
    for split in ("test", "train"):
        with pytest.raises(InputError, match="expected integer labels \\[N\\]"):
            arrays.load_labels(path, "any", split)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_missing_and_damaged_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"images{suffix}"
    with pytest.raises(InputError, match=f"^{path} does not exist"):
        arrays.load_images(path, "any", "test")
    images = random_images(0, 40)
    np.save(path, images) if suffix == ".npy" else np.savez_compressed(path, test=images)
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    damaged = [whole[:200], b"", b"no array"]
    if suffix == ".npz":  # an .npy file has no checksum
        damaged.append(bytes(broken))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"^{path} cannot be read"):
            arrays.load_images(path, "any", "test")


def test_files_of_another_kind_under_these_names_are_refused(tmp_path):
    np.save(tmp_path / "array.npy", random_images(0, 2))
    np.savez(tmp_path / "archive.npz", test=random_images(0, 2))
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("test", "no array")
    with pytest.raises(
        InputError, match=r"text\.npz holds the keys \(none\); expected any_test or"
    ):
        arrays.load_images(tmp_path / "text.npz", "any", "test")
    (tmp_path / "array.npy").rename(tmp_path / "x.npz")
    (tmp_path / "archive.npz").rename(tmp_path / "x.npy")
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            arrays.load_images(tmp_path / name, "any", "test")


def test_archives_that_nothing_here_can_unpack_are_refused(tmp_path):
    """Encrypted, or packed by a method that Python does not know."""
    path = tmp_path / "x.npz"
    np.savez(path, test=random_images(0, 2))
    whole = path.read_bytes()
    local, central = whole.index(b"PK\x03\x04"), whole.index(b"PK\x01\x02")
    for at, value in ((6, 1), (8, 97)):  # the flag of encryption; the method
        content = bytearray(whole)
        content[local + at] = content[central + at + 2] = value
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz cannot be read \("):
            arrays.load_images(path, "any", "test")
        with pytest.raises(InputError, match=r"x\.npz"):
            list(stream.read([str(path)]))


@pytest.mark.parametrize("old, new", [(b"3), }", b"3    "), (b" 8,", b"-8,"), (b"'|u1'", b"'|u1 ")])
def test_a_header_that_numpy_cannot_parse_is_one_sentence(tmp_path, old, new):
    """Its parser is Python's own, and raises what that raises."""
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8, 3), np.uint8))
    data = (tmp_path / "x.npy").read_bytes()
    assert old in data
    (tmp_path / "x.npy").write_bytes(data.replace(old, new, 1))
    with pytest.raises(InputError, match=r"x\.npy cannot be read"):
        stream.check([str(tmp_path / "x.npy")])
    with pytest.raises(InputError, match=r"x\.npy cannot be read"):
        arrays.load_images(tmp_path / "x.npy", "any", "train")


@pytest.mark.parametrize("shape", [(32, 28, 1), (32, 32, 3), (32, 32, 4)])
def test_an_array_that_may_be_one_image_is_refused(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    for read in (
        lambda: arrays.load_images(tmp_path / "x.npy", "x", "test"),
        lambda: list(stream.read([str(tmp_path / "x.npy")])),
    ):
        with pytest.raises(InputError, match="which may be one image, or grey images of"):
            read()
