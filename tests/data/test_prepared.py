import logging

import numpy as np
import pytest

from ecood.data import prepared
from ecood.errors import InputError
from tests.data.image_files import random_images, write_tfds

LABELS = np.arange(30) % 7
KINDS = ["array_record", "tfrecord"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("shape", [(5, 4, 3), (6, 6, 1)])
def test_reads_images_and_labels_in_order(tmp_path, monkeypatch, kind, shards, shape):
    monkeypatch.setattr(prepared, "CHUNK", 8)
    train, test = random_images(0, 30, shape), random_images(1, 5, shape)
    splits = {"train": (train, LABELS), "test": (test, LABELS[:5])}
    write_tfds(tmp_path, "things", splits, kind=kind, shards=shards)
    np.testing.assert_array_equal(prepared.load_images(tmp_path, "things", "train"), train)
    np.testing.assert_array_equal(prepared.load_images(tmp_path, "things", "test"), test)
    np.testing.assert_array_equal(prepared.load_images(tmp_path, "things", "train", 17), train[:17])
    np.testing.assert_array_equal(prepared.load_images(tmp_path, "things", "test", 99), test)
    labels = prepared.load_labels(tmp_path, "things", "train", 17)
    assert labels.dtype == np.int64 and labels.tolist() == LABELS[:17].tolist()


def test_takes_the_newest_version_and_no_half_prepared_one(tmp_path):
    for version in ("2.0.0", "10.0.0", "9.9.9"):
        write_tfds(tmp_path, "things", {"test": (random_images(0, 2), [0, 1])}, version=version)
    (tmp_path / "things" / "incomplete.ABC_11.0.0").mkdir()
    (tmp_path / "things" / "incomplete.ABC_11.0.0" / "dataset_info.json").write_text("{}")
    (tmp_path / "things" / "12.0.0").mkdir()
    assert prepared.find(tmp_path, "things") == tmp_path / "things" / "10.0.0"
    assert prepared.find(tmp_path, "others") is None
    assert prepared.find(tmp_path / "nowhere", "things") is None
    assert prepared.names(tmp_path) == ["things"]
    assert prepared.names(tmp_path / "nowhere") == []


def test_a_config_is_part_of_the_name(tmp_path):
    images = random_images(0, 2)
    folder = write_tfds(tmp_path, "things", {"test": (images, [0, 1])})
    (tmp_path / "things" / "small").mkdir()
    folder.rename(tmp_path / "things" / "small" / "1.0.0")
    assert prepared.find(tmp_path, "things") is None
    found = prepared.load_images(tmp_path, "things/small", "test")
    np.testing.assert_array_equal(found, images)


def test_the_default_directory_is_that_of_tfds(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert prepared.default_directory() == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepared.default_directory() == tmp_path / "tensorflow_datasets"


def test_reading_says_nothing(tmp_path, caplog):
    write_tfds(tmp_path, "things", {"test": (random_images(0, 2), [0, 1])})
    with caplog.at_level(logging.WARNING):
        prepared.load_images(tmp_path, "things", "test")
        with prepared.quiet():
            logging.getLogger("absl").warning("a remark of TFDS")
    assert not caplog.records
    logging.getLogger("absl").warning("someone else's")
    assert [record.message for record in caplog.records] == ["someone else's"]


def test_missing_sets_splits_and_labels_are_refused(tmp_path):
    write_tfds(tmp_path, "things", {"test": (random_images(0, 2), [3, -1])})
    with pytest.raises(InputError, match="holds the TFDS data sets things; expected others"):
        prepared.load_images(tmp_path, "others", "test")
    with pytest.raises(InputError, match="has the splits test; expected train"):
        prepared.load_images(tmp_path, "things", "train")
    with pytest.raises(InputError, match="split test, has no known labels"):
        prepared.load_labels(tmp_path, "things", "test")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_data_are_refused(tmp_path, kind):
    folder = write_tfds(tmp_path, "things", {"test": (random_images(0, 9), LABELS)}, kind=kind)
    path = next(folder.glob("*-test.*"))
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) - 2):
        path.write_bytes(whole[:size])
        if kind == "array_record" and size == len(whole) - 2:
            continue  # padding
        with pytest.raises(InputError, match="things/1.0.0, split test,.* prepare the data set"):
            prepared.load_images(tmp_path, "things", "test")
    path.unlink()
    with pytest.raises(InputError, match="things/1.0.0, split test, cannot be read"):
        prepared.load_images(tmp_path, "things", "test")
    (folder / "features.json").write_text("{")
    with pytest.raises(InputError, match="things/1.0.0, split test, cannot be read"):
        prepared.load_images(tmp_path, "things", "test")


def test_a_set_without_images_is_refused(tmp_path):
    folder = write_tfds(tmp_path, "things", {"test": (random_images(0, 2), [0, 1])})
    features = folder / "features.json"
    features.write_text(
        features.read_text().replace('"image": {"pythonClass', '"scan": {"pythonClass')
    )
    with pytest.raises(InputError, match="has the features label, scan; expected image"):
        prepared.load_images(tmp_path, "things", "test")


def test_an_empty_split_is_refused(tmp_path):
    write_tfds(tmp_path, "things", {"test": (random_images(0, 0), [])}, kind="tfrecord")
    with pytest.raises(InputError, match="split test,.* empty"):
        prepared.load_images(tmp_path, "things", "test")
