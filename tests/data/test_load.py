import subprocess
import sys

import numpy as np
import pytest

import ecood.data
from ecood.data import embedded, prepare
from ecood.errors import InputError
from tests.data.image_files import random_images, write_images, write_tfds

LABELS = np.arange(30) % 7


@pytest.fixture
def tfds(tmp_path):
    """A TFDS directory with two sets of coloured images."""
    directory = tmp_path / "tfds"
    for seed, name in enumerate(["cats", "dogs"]):
        splits = {
            "train": (random_images(seed, 30), LABELS),
            "test": (random_images(seed + 10, 20), LABELS),
        }
        write_tfds(directory, name, splits)
    return directory


@pytest.fixture(autouse=True)
def no_prepared_data(tmp_path, monkeypatch):
    """Neither the machine's own TFDS data nor its network reach these tests."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    monkeypatch.setattr(prepare, "obstacle", lambda names, timeout: "the network is down")


def test_a_pair_from_a_tfds_directory(tfds):
    pair = ecood.data.load(tfds, "cats", "dogs")
    np.testing.assert_array_equal(pair.id_train, random_images(0, 30))
    np.testing.assert_array_equal(pair.id_test, random_images(10, 20))
    np.testing.assert_array_equal(pair.ood_test, random_images(11, 20))
    assert (pair.id_name, pair.ood_name, pair.source) == ("cats", "dogs", str(tfds))
    assert pair.reason == f"cats and dogs are from the TFDS data directory {tfds}, as asked for."
    few = ecood.data.load(str(tfds), "cats", "dogs", limit=4)
    np.testing.assert_array_equal(few.id_train, pair.id_train[:4])
    np.testing.assert_array_equal(few.ood_test, pair.ood_test[:4])


def test_a_pair_from_a_folder_and_from_an_array_file(tmp_path):
    cats, more, dogs = (random_images(seed, 5) for seed in range(3))
    for place, images in (("cats/train", cats), ("cats/test", more), ("dogs/test", dogs)):
        write_images(tmp_path / "folder" / place, images)
    np.savez(tmp_path / "pair.npz", cats_train=cats, cats_test=more, dogs_test=dogs)
    for source, kind in (("folder", "folder of images"), ("pair.npz", "array file")):
        pair = ecood.data.load(tmp_path / source, "cats", "dogs")
        assert kind in pair.reason and pair.source == str(tmp_path / source)
        for found, images in zip(pair[2:5], (cats, more, dogs), strict=True):
            assert {i.tobytes() for i in found} == {i.tobytes() for i in images}


def test_ood_images_may_come_from_elsewhere(tfds, tmp_path):
    images = random_images(5, 8)
    np.save(tmp_path / "odd.npy", images)
    pair = ecood.data.load(tfds, "cats", "odd", ood_source=tmp_path / "odd.npy")
    np.testing.assert_array_equal(pair.id_test, random_images(10, 20))
    np.testing.assert_array_equal(pair.ood_test, images)
    assert pair.source == f"{tfds} + {tmp_path / 'odd.npy'}"
    assert pair.reason == (
        f"cats (ID) is from the TFDS data directory {tfds}, as asked for, and odd (OOD) from the "
        f"array file {tmp_path / 'odd.npy'}, as asked for."
    )


def test_embedded_as_asked_for():
    pair = ecood.data.load("embedded", "fashion_mnist", "mnist", limit=9)
    np.testing.assert_array_equal(pair.id_train, embedded.load_images("fashion_mnist", "train", 9))
    np.testing.assert_array_equal(pair.ood_test, embedded.load_images("mnist", "test", 9))
    assert pair.source == "embedded" and "in place of" not in pair.reason
    turned = ecood.data.load("embedded", "mnist", "fashion_mnist", limit=9)
    np.testing.assert_array_equal(turned.ood_test, pair.id_test)


def test_embedded_stands_in_and_says_so(tmp_path):
    pair = ecood.data.load("embedded", "cifar10", "svhn_cropped", limit=9)
    assert pair[:2] == ("fashion_mnist", "mnist")
    assert pair.reason == (
        "fashion_mnist and mnist, in place of cifar10 and svhn_cropped, are from the images "
        "embedded in the package, as asked for."
    )
    half = ecood.data.load("embedded", "mnist", "svhn_cropped", limit=9)
    assert half[:2] == ("fashion_mnist", "mnist")
    np.save(tmp_path / "odd.npy", random_images(0, 5, (28, 28, 1)))
    mixed = ecood.data.load("embedded", "cifar10", "odd", ood_source=tmp_path / "odd.npy")
    assert mixed[:2] == ("fashion_mnist", "odd") and mixed.source.startswith("embedded + ")


def test_auto_prefers_prepared_data(tfds, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds))
    pair = ecood.data.load("auto", "cats", "dogs")
    assert pair.source == "tfds" and pair[:2] == ("cats", "dogs")
    assert pair.reason == f"cats and dogs are from the data that TFDS has prepared in {tfds}."
    assert ecood.data.load("tfds", "cats", "dogs").source == "tfds"


def test_auto_downloads_what_is_missing(tfds, tmp_path, monkeypatch):
    downloaded = []

    def fetch(name, directory, *, splits):
        assert splits == ("train", "test")
        downloaded.append(name)
        (directory / name).parent.mkdir(exist_ok=True)
        (tfds / name).rename(directory / name)

    monkeypatch.setattr(prepare, "obstacle", lambda names, timeout: None)
    monkeypatch.setattr(prepare, "prepare", fetch)
    pair = ecood.data.load("auto", "cats", "dogs")
    assert downloaded == ["cats", "dogs"] and pair.source == "tfds"
    assert f"a download, prepared in {tmp_path / 'default'}, which held no" in pair.reason
    ecood.data.load("auto", "cats", "dogs")
    assert downloaded == ["cats", "dogs"]


def test_auto_falls_back_on_the_embedded_pair_and_says_why(tmp_path, monkeypatch):
    pair = ecood.data.load("auto", "cats", "dogs", limit=5)
    assert pair.source == "embedded" and pair[:2] == ("fashion_mnist", "mnist")
    assert pair.reason == (
        "fashion_mnist and mnist, in place of cats and dogs, are from the images embedded in the "
        f"package, because {tmp_path / 'default'} holds no prepared cats or dogs and the network "
        "is down."
    )

    def fail(name, directory, *, splits):
        raise InputError(f"the download of {name} broke.")

    monkeypatch.setattr(prepare, "obstacle", lambda names, timeout: None)
    monkeypatch.setattr(prepare, "prepare", fail)
    pair = ecood.data.load("auto", "cats", "dogs", limit=5)
    assert pair.source == "embedded" and pair.reason.endswith("and the download of cats broke.")


def test_tfds_and_single_sets_have_no_stand_in(tmp_path):
    with pytest.raises(InputError, match="source tfds cannot give cats and dogs: .* is down; exp"):
        ecood.data.load("tfds", "cats", "dogs")
    with pytest.raises(InputError, match="there is no cats among the images embedded .* is down; "):
        ecood.data.load_images("auto", "cats", "test")
    with pytest.raises(
        InputError, match="there is no cats among .* as asked for; expected fashion"
    ):
        ecood.data.load_labels("embedded", "cats", "test")


def test_single_sets_and_labels(tfds, tmp_path):
    np.testing.assert_array_equal(
        ecood.data.load_images(tfds, "dogs", "test", limit=3), random_images(11, 3)
    )
    assert ecood.data.load_labels(tfds, "dogs", "test").tolist() == LABELS[:20].tolist()
    assert ecood.data.load_labels("embedded", "mnist", "test", limit=3).shape == (3,)
    write_images(tmp_path / "flat", random_images(0, 2))
    assert ecood.data.load_images(tmp_path / "flat", "any", "test").shape == (2, 5, 4, 3)
    with pytest.raises(InputError, match="flat has no labels for any, split test"):
        ecood.data.load_labels(tmp_path / "flat", "any", "test")


def test_id_and_ood_of_different_shapes_are_refused(tfds, tmp_path):
    for name, shape in (("grey", (5, 4, 1)), ("large", (6, 4, 3))):
        np.save(tmp_path / f"{name}.npy", random_images(0, 3, shape))
        words = rf"cats train \(ID\) has .* \[5, 4, 3\] but {name} test \(OOD\) has \[{shape[0]}, 4"
        with pytest.raises(InputError, match=words):
            ecood.data.load(tfds, "cats", name, ood_source=tmp_path / f"{name}.npy")


def test_the_same_images_twice_are_refused(tfds, tmp_path):
    with pytest.raises(InputError, match=r"cats test \(ID\) and cats test \(OOD\) are the same"):
        ecood.data.load(tfds, "cats", "cats")
    np.savez(tmp_path / "one.npz", train=random_images(0, 5), test=random_images(1, 5))
    with pytest.raises(InputError, match=r"a test \(ID\) and b test \(OOD\) are the same images"):
        ecood.data.load(tmp_path / "one.npz", "a", "b")
    np.save(tmp_path / "one.npy", random_images(0, 5))
    with pytest.raises(InputError, match=r"a train \(ID\) and a test \(ID\) are the same images"):
        ecood.data.load(tmp_path / "one.npy", "a", "dogs", ood_source=tfds)


def test_paths_that_are_no_source_are_refused(tfds, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(InputError, match="nowhere is not there; expected auto, embedded, tfds, hf"):
        ecood.data.load(tmp_path / "nowhere", "cats", "dogs")
    with pytest.raises(InputError, match="notes.txt is a file; expected auto, embedded, tfds, hf"):
        ecood.data.load_images(tmp_path / "notes.txt", "cats", "test")
    with pytest.raises(InputError, match="holds the TFDS data sets cats, dogs; expected birds"):
        ecood.data.load_images(tfds, "birds", "test")


@pytest.mark.parametrize("limit", [0, -1, 2.5, "3", True])
def test_limits_that_are_no_number_of_images_are_refused(limit):
    with pytest.raises(InputError, match="limit is .*; expected a whole number"):
        ecood.data.load("embedded", "fashion_mnist", "mnist", limit=limit)


def test_tfds_is_not_imported_before_it_is_needed():
    code = (
        "import sys, ecood.data; ecood.data.load_images('embedded', 'mnist', 'test', limit=1); "
        "sys.exit('tensorflow_datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_user_without_a_home_has_nothing_prepared(monkeypatch):
    """As in a container whose user is not in /etc/passwd."""
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does then
    monkeypatch.setattr(prepare, "obstacle", lambda names, timeout: None)
    pair = ecood.data.load("auto", *embedded.NAMES, limit=3)
    assert pair.source == "embedded" and "as this user has no home" in pair.reason
    with pytest.raises(InputError, match="source tfds cannot give cats: .* has no home"):
        ecood.data.load_images("tfds", "cats", "test")
    with pytest.raises(InputError, match="~/photos is not there"):
        ecood.data.load_images("~/photos", "cats", "test")
