"""What stands in the way of a download, and the data sets that TFDS itself prepares."""

import importlib.util
import shutil
import tempfile
import threading
import types

import pytest
import tensorflow_datasets as tfds

from ecood.data import archives, prepare
from ecood.errors import InputError
from tests.data.image_files import random_images, write_tfds


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "new" / "tfds"


def test_official_archives_are_those_that_tfds_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (cifar,) = prepare.official("cifar10").values()
    assert cifar.url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert cifar.size == 170_052_171 and cifar.sha256.startswith("c4a38c50a1bc5f3a")
    for name, found in archives.SETS.items():
        assert {file for files in found.files.values() for file in files} <= set(
            prepare.official(name)
        )
    assert list(tmp_path.iterdir()) == []  # TFDS would leave a folder for each


def test_threads_leave_tfds_as_it_was(monkeypatch):
    """The second would enter while the first is within, and leave after it."""
    kind = tfds.core.DatasetInfo
    before, entered = kind.initialize_from_bucket, [threading.Event() for _ in range(2)]
    waits = {"first": entered[1], "second": threading.Event()}

    def builder(name, **options):
        entered[name == "second"].set()
        waits[name].wait(0.3)

    monkeypatch.setattr(tfds, "builder", builder)
    first, second = (threading.Thread(target=prepare._builder, args=(name,)) for name in waits)
    first.start()
    entered[0].wait()
    second.start()
    first.join()
    second.join()
    assert kind.initialize_from_bucket is before


def test_hosts_are_asked_before_a_download(monkeypatch):
    asked = []
    monkeypatch.setattr(prepare, "silent", lambda urls, timeout: asked.extend(urls))
    assert prepare.obstacle(["cifar10", "svhn_cropped"], 1.0) is None
    assert {url.split("/")[2] for url in asked} == {"www.cs.toronto.edu", "ufldl.stanford.edu"}
    monkeypatch.setattr(prepare, "silent", lambda urls, timeout: "a.host")
    assert prepare.obstacle(["mnist"], 1.0) == "a.host gave no answer within 1 s"
    assert "fetched by hand" in prepare.obstacle(["celeb_a"], 1.0)


def test_other_data_sets_need_tensorflow(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "TensorFlow" in prepare.obstacle(["emnist"], 1.0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "TFDS has no way to make no_such_set" in prepare.obstacle(["no_such_set"], 1.0)


def needs_tensorflow(monkeypatch, prepare_into):
    """Makes TFDS's builder one that prepares like this."""

    def builder(name, directory=None):
        return types.SimpleNamespace(
            data_dir=str(directory / name / "1.0.0"),
            download_and_prepare=lambda download_dir: prepare_into(directory, download_dir),
        )

    monkeypatch.setattr(prepare, "_builder", builder)


def test_tfds_prepares_other_data_sets(monkeypatch, tmp_path, directory):
    made = write_tfds(tmp_path / "made", "things", {"test": (random_images(0, 2), [0, 1])})

    def prepare_into(into, downloads):
        (path := into / downloads).joinpath("archive.zip").write_text("archive")
        assert path.parent == directory
        shutil.copytree(made, into / "things" / "1.0.0")

    needs_tensorflow(monkeypatch, prepare_into)
    assert prepare.prepare("things", directory) == directory / "things" / "1.0.0"
    assert [path.name for path in directory.iterdir()] == ["things"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_download_by_tfds_leaves_nothing(monkeypatch, directory, existed):
    if existed:
        write_tfds(directory, "others", {"test": (random_images(0, 2), [0, 1])})

    def prepare_into(into, downloads):
        (into / downloads / "half").write_text("half an archive")
        (into / "things").mkdir()
        raise ConnectionError("line 1\nline 2")

    needs_tensorflow(monkeypatch, prepare_into)
    with pytest.raises(InputError, match=r"download of things .* failed \(line 1 line 2\)"):
        prepare.prepare("things", directory)
    assert directory.exists() == existed
    assert not existed or [path.name for path in directory.iterdir()] == ["others"]
