import json
import shutil
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

from ecood.data import archives, download, prepare, prepared, tfds_format
from ecood.errors import InputError
from tests.data import archive_files
from tests.data.archive_files import known
from tests.data.http_files import served
from tests.data.image_files import random_images, write_tfds

DOWNLOADED = [name for name in archives.SETS if name not in archives.LOCAL]

# Which example of its archive each record is, as TFDS 4.9.10 with TensorFlow 2.21 prepares these
# archives: it depends on the split and the keys, for all but CelebA the numbers from 0.
ORDER = {
    "train": [6, 16, 19, 12, 14, 18, 5, 13, 15, 21, 4, 10, 22, 17, 0, 8, 23, 3, 1, 24, 20, 9, 7]
    + [11, 2],
    "test": [6, 1, 4, 3, 2, 7, 5, 0],
    "extra": [0, 1, 3, 2, 4, 5],
}
ORDER_CELEBA = {
    "train": [0, 9, 13, 4, 21, 7, 14, 18, 12, 3, 24, 19, 2, 15, 6, 22, 10, 8, 17, 1, 20, 5, 16, 23]
    + [11],
    "validation": [25, 26, 27],
    "test": [34, 29, 31, 35, 33, 28, 30, 32],
}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "new" / "tfds"


@pytest.fixture
def publish(tmp_path):
    """Writes the archives of a data set and serves them; the server and what is known of them."""
    with served(tmp_path / "published") as server:

        def publish(name):
            paths = archive_files.write(server.folder, name)
            return server, archive_files.remotes(paths, server.address)

        yield publish


def check(directory, name, splits):
    """The data set is there, whole and in TFDS's order, and nothing else is."""
    assert [path.name for path in directory.iterdir()] == [name]
    (folder,) = (directory / name).iterdir()
    info = json.loads((folder / "dataset_info.json").read_text())
    assert {split["name"] for split in info["splits"]} == set(splits)
    for split in splits:
        images, labels = known(name, split)
        found = prepared.load_images(directory, name, split)
        np.testing.assert_array_equal(found, images[ORDER[split]])
        found = prepared.load_labels(directory, name, split)
        np.testing.assert_array_equal(found, labels["label"][ORDER[split]])


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_download_becomes_what_tfds_prepares(directory, publish, name):
    _, remotes = publish(name)
    folder = prepare.prepare(name, directory, remotes=remotes)
    assert folder.parent == directory / name
    check(directory, name, archives.SETS[name].files)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("kind", ["binary", "python"])
def test_both_cifar_archives_hold_the_same(directory, tmp_path, monkeypatch, name, kind):
    (path,) = archive_files.write(tmp_path / "home" / "deep", name, kind)
    remotes = archive_files.remotes(archive_files.write(tmp_path / "elsewhere", name))
    (binary,) = remotes
    instead = (path.name, archive_files.remotes([path])[path.name])
    monkeypatch.setitem(archives.INSTEAD, binary, instead)
    at_hand = tmp_path / "home" if kind == "binary" else path
    folder = prepare.prepare(name, directory, at_hand=at_hand, remotes=remotes)
    check(directory, name, ["train", "test"])
    assert path.exists()  # it is the user's
    classes = archive_files.CLASSES if name == "cifar10" else archive_files.CLASSES_100
    for label, words in classes.items():
        assert (folder / f"{label}.labels.txt").read_text().split() == words


def test_other_programs_read_all_features_without_tensorflow(directory, publish):
    for name in ("cifar100", "svhn_cropped"):
        prepare.prepare(name, directory, remotes=publish(name)[1])
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        "for name in ('cifar100', 'svhn_cropped'):\n"
        "    row = tfds.data_source(name, split='test', data_dir=sys.argv[1])[0]\n"
        "    print(*(row[k] for k in sorted(row) if k != 'image'), row['image'].shape)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(directory)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    labels = [known(name, "test")[1] for name in ("cifar100", "svhn_cropped")]
    first, second = ([str(column[ORDER["test"][0]]) for column in each.values()] for each in labels)
    assert ran.stdout.splitlines() == [
        f"{first[0]} b'test_00006' {first[1]} (32, 32, 3)",
        f"b'test_000006' {second[0]} (32, 32, 3)",
    ]


@pytest.mark.parametrize("unpacked", [False, True])
def test_celeba_from_a_disk(directory, tmp_path, unpacked):
    paths, jpegs = archive_files.write_celeba(tmp_path / "CelebA")
    remotes = archive_files.remotes(paths)
    at_hand = tmp_path / "CelebA"
    if unpacked:
        archive = at_hand / "Img" / "img_align_celeba.zip"
        shutil.unpack_archive(archive, archive.parent)
        archive.unlink()
    prepare.prepare("celeb_a", directory, at_hand=at_hand, remotes=remotes)
    import tensorflow_datasets as tfds

    sources = tfds.data_source("celeb_a", data_dir=directory)
    assert {split: len(rows) for split, rows in sources.items()} == {
        "train": 25,
        "validation": 3,
        "test": 8,
    }
    pictures = list(jpegs.values())
    for split, order in ORDER_CELEBA.items():
        rows = list(sources[split])
        assert [row["identity"]["Identity_No"] for row in rows] == [7 * i for i in order]
        i = order[0]
        assert rows[0]["landmarks"]["nose_x"] == i + 4
        assert rows[0]["attributes"]["Young"] == (i + 39) % 2
        np.testing.assert_array_equal(
            prepared.load_images(directory, "celeb_a", split)[0],
            archive_files.pixels(pictures[i]),
        )
    if unpacked:
        (at_hand / "Img" / "img_align_celeba" / "000036.jpg").unlink()
        with pytest.raises(InputError, match="cannot be read as an archive of celeb_a .*000036"):
            prepare.prepare("celeb_a", tmp_path / "other", at_hand=at_hand, remotes=remotes)
        assert not (tmp_path / "other").exists()


def test_celeba_of_another_size_is_refused(directory, tmp_path):
    paths, _ = archive_files.write_celeba(tmp_path / "CelebA", size=(64, 64))
    with pytest.raises(InputError, match=r"has \(64, 64\) pixels, and CelebA's have \(178, 218\)"):
        prepare.prepare(
            "celeb_a", directory, at_hand=tmp_path, remotes=archive_files.remotes(paths)
        )
    assert not directory.exists()


def test_archives_of_one_name_are_told_apart(directory, tmp_path):
    for name in ("mnist", "fashion_mnist"):
        paths = archive_files.write(tmp_path / "home" / name / "raw", name)
        remotes = archive_files.remotes(paths)
        prepare.prepare(name, directory, at_hand=tmp_path / "home", remotes=remotes)
        images = prepared.load_images(directory, name, "test")
        np.testing.assert_array_equal(images, known(name, "test")[0][ORDER["test"]])


def test_archives_at_hand_that_are_missing_or_others_are_refused(directory, tmp_path):
    paths = archive_files.write(tmp_path / "home", "mnist")
    remotes = archive_files.remotes(paths)
    paths[2].write_bytes(b"another file")
    with pytest.raises(InputError, match="t10k-images.* is not the file that was published"):
        prepare.prepare("mnist", directory, at_hand=tmp_path / "home", remotes=remotes)
    paths[2].unlink()
    with pytest.raises(InputError, match="home holds no t10k-images.*; expected .* fetch it from"):
        prepare.prepare("mnist", directory, at_hand=tmp_path / "home", remotes=remotes)
    with pytest.raises(InputError, match="holds no cifar-10-binary.tar.gz or cifar-10-python.tar"):
        prepare.prepare("cifar10", directory, at_hand=tmp_path / "home")
    assert not directory.exists()


def test_beside_an_archive_only_its_own_folder_is_searched(directory, tmp_path):
    paths = archive_files.write(tmp_path / "home", "mnist")
    remotes = archive_files.remotes(paths)
    (tmp_path / "home" / "deep").mkdir()
    paths[2].rename(tmp_path / "home" / "deep" / paths[2].name)
    with pytest.raises(InputError, match="idx3-ubyte.gz holds no t10k-images"):
        prepare.prepare("mnist", directory, at_hand=paths[0], remotes=remotes)
    prepare.prepare("mnist", directory, at_hand=tmp_path / "home", remotes=remotes)
    check(directory, "mnist", ["train", "test"])
    with pytest.raises(InputError, match="nowhere is not there; expected a folder with archives"):
        prepare.prepare("mnist", directory, at_hand=tmp_path / "nowhere", remotes=remotes)


def test_the_users_own_directory_stays_when_nothing_can_be_prepared(directory, tmp_path):
    directory.mkdir(parents=True)
    with pytest.raises(InputError, match="holds no cifar-10"):
        prepare.prepare("cifar10", directory, at_hand=tmp_path)
    assert list(directory.iterdir()) == []


def test_an_interrupted_download_goes_on_with_the_next_call(directory, publish):
    server, remotes = publish("svhn_cropped")
    server.ways["test_32x32.mat"] = ["cut", "nothing", "nothing", "nothing", "right"]
    with pytest.raises(InputError, match="test_32x32.mat gave .* goes on from there"):
        prepare.prepare("svhn_cropped", directory, remotes=remotes)
    left = sorted(path.name for path in directory.rglob("*") if path.is_file())
    assert left == ["test_32x32.mat.part", "train_32x32.mat"]
    prepare.prepare("svhn_cropped", directory, remotes=remotes)
    check(directory, "svhn_cropped", ["train", "test", "extra"])
    assert server.starts_of("train_32x32.mat") == [0]


def test_splits_are_added_later(directory, publish):
    server, remotes = publish("svhn_cropped")
    prepare.prepare("svhn_cropped", directory, splits=("train", "test"), remotes=remotes)
    check(directory, "svhn_cropped", ["train", "test"])
    assert server.starts_of("extra_32x32.mat") == []
    for _ in range(2):
        prepare.prepare("svhn_cropped", directory, remotes=remotes)
        check(directory, "svhn_cropped", ["train", "test", "extra"])
    assert len(server.asked) == 3


def test_what_another_program_prepared_stays(directory, publish):
    _, remotes = publish("svhn_cropped")
    splits = {"train": (random_images(0, 3), [0, 1, 2])}
    write_tfds(directory, "svhn_cropped", splits, kind="tfrecord", version="3.1.0")
    with pytest.raises(InputError, match="3.1.0 is of tfrecord files; expected array_record"):
        prepare.prepare("svhn_cropped", directory, remotes=remotes)
    images = prepared.load_images(directory, "svhn_cropped", "train")
    np.testing.assert_array_equal(images, random_images(0, 3))


def test_processes_take_turns(directory, publish, capfd):
    server, remotes = publish("cifar10")
    errors = []

    def run():
        try:
            prepare.prepare("cifar10", directory, remotes=remotes)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and server.asked == [("cifar-10-binary.tar.gz", 0)]
    check(directory, "cifar10", ["train", "test"])


def test_without_locks_both_finish(directory, publish, monkeypatch):
    """The other process has published the folder while this one was writing."""
    _, remotes = publish("cifar10")
    write_info = tfds_format.write_info

    def other(*arguments):
        monkeypatch.setattr(tfds_format, "write_info", write_info)
        prepare.prepare("cifar10", directory, remotes=remotes)
        write_info(*arguments)

    def no_locks(*_):
        raise OSError("no locks")

    monkeypatch.setattr("fcntl.flock", no_locks)
    monkeypatch.setattr(tfds_format, "write_info", other)
    prepare.prepare("cifar10", directory, remotes=remotes)
    check(directory, "cifar10", ["train", "test"])


def test_what_a_killed_process_left_is_removed(directory, publish):
    _, remotes = publish("cifar10")
    left = directory / "cifar10" / f"{prepare.UNFINISHED}abc" / "3.0.2"
    left.mkdir(parents=True)
    (left / "dataset_info.json").write_text("{}")
    assert prepared.find(directory, "cifar10") is None
    prepare.prepare("cifar10", directory, remotes=remotes)
    check(directory, "cifar10", ["train", "test"])


@pytest.mark.parametrize(
    ("name", "gone"),
    [("dataset_info.json", False), ("features.json", False), ("features.json", True)],
)
def test_damaged_data_to_which_a_split_would_be_added_are_refused(directory, publish, name, gone):
    _, remotes = publish("cifar10")
    prepare.prepare("cifar10", directory, splits=["test"], remotes=remotes)
    (file,) = directory.glob(f"cifar10/*/{name}")
    file.unlink() if gone else file.write_text("")
    with pytest.raises(InputError, match="3.0.2 cannot be read as prepared data .*; remove it"):
        prepare.prepare("cifar10", directory, remotes=remotes)


def test_an_archive_of_another_layout_is_refused(directory, tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(b"no archive")
    remotes = archive_files.remotes([path])
    with pytest.raises(InputError, match=r"binary.tar.gz cannot be read as an archive of cifar10 "):
        prepare.prepare("cifar10", directory, at_hand=path, remotes=remotes)
    assert not directory.exists()


@pytest.mark.parametrize("at_hand", [False, True])
def test_a_full_disk_leaves_nothing(directory, publish, at_hand):
    """No file may become larger than some bytes: neither the archive nor what is prepared fits."""
    server, remotes = publish("cifar10")
    program = (
        "import pathlib, resource, signal, sys\n"
        "from ecood.data import prepare\n"
        "from ecood.data.download import Remote\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "at_hand, directory = map(pathlib.Path, sys.argv[1:3])\n"
        "known = {'cifar-10-binary.tar.gz': Remote(sys.argv[3], int(sys.argv[4]), sys.argv[5])}\n"
        "options = {'at_hand': at_hand} if at_hand.is_dir() else {}\n"
        "prepare.prepare('cifar10', directory, remotes=known, **options)"
    )

    words = [server.folder if at_hand else "none", directory, *remotes["cifar-10-binary.tar.gz"]]
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    told = "cifar10 cannot be prepared in" if at_hand else "binary.tar.gz cannot be written (File"
    assert told in ran.stderr.splitlines()[-1], ran.stderr
    assert not directory.exists()


def test_too_little_room_is_told_before_the_download(directory, publish, monkeypatch):
    server, remotes = publish("cifar10")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(
        InputError, match="has room for 1,000 bytes; expected .* --out or TFDS_DATA_DIR"
    ):
        prepare.prepare("cifar10", directory, remotes=remotes)
    assert not server.asked and not directory.exists()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match="cifar10 cannot be prepared in .*file/tfds"):
        prepare.prepare("cifar10", tmp_path / "file" / "tfds", remotes={})
