import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest
import scipy.io

from ecood.data.archives import SETS
from tests.data import archive_files
from tests.data.archive_files import known


def read(name, split, *paths):
    return SETS[name].read(split, paths)


def rewritten(path, changes):
    """A CIFAR archive with other members; None takes one out."""
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    members |= {next(n for n in members if n.endswith(end)): x for end, x in changes.items()}
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            if data is not None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn_cropped", "mnist"])
def test_examples_are_those_of_the_archive_in_its_order(tmp_path, name):
    paths = archive_files.write(tmp_path, name)
    for split in ("train", "test"):
        images, labels = known(name, split)
        names = SETS[name].files[split]
        found = read(name, split, *(path for path in paths if path.name in names))
        assert list(found.keys) == list(range(len(images)))
        for i in (0, len(images) - 1):
            example = found.get(i)
            np.testing.assert_array_equal(example["image"], images[i])
            assert {key: example[key] for key in labels} == {
                key: int(column[i]) for key, column in labels.items()
            }
            ids = {"cifar10": f"{split}_{i:05}", "svhn_cropped": f"{split}_{i:06}"}
            assert example.get("id") == ids.get(name, example.get("id"))


class Calls:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("harm", [Calls(), [Calls()], {b"data": Calls()}])
def test_a_pickle_that_calls_is_refused(tmp_path, capsys, harm, protocol):
    (path,) = archive_files.write(tmp_path, "cifar10", "python")
    rewritten(path, {"test_batch": pickle.dumps(harm, protocol)})
    with pytest.raises(ValueError, match="it names .*, and nothing in a pickle is executed"):
        read("cifar10", "test", path)
    assert capsys.readouterr().out == ""


def test_arrays_that_numpy_2_pickled_are_read(tmp_path):
    (path,) = archive_files.write(tmp_path, "cifar10", "python")
    images = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    batch = archive_files.python2({b"labels": [3, 4], b"data": images})
    batch = batch.replace(b"numpy.core.multi", b"numpy._core.multi")
    found = read("cifar10", "test", rewritten(path, {"test_batch": batch})).get(1)
    assert found["label"] == 4 and found["image"][0, 1, 0] == (3072 + 1) % 256


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_batch.bin": None}, "it holds no test_batch.bin"),
        ({"batches.meta.txt": None}, "it holds no batches.meta.txt"),
        ({"test_batch.bin": b"x" * 3074}, "reshape"),
    ],
)
def test_cifar_archives_of_another_content_are_refused(tmp_path, changes, words):
    (path,) = archive_files.write(tmp_path, "cifar10")
    with pytest.raises(ValueError, match=words):
        read("cifar10", "test", rewritten(path, changes))


def test_svhn_has_labels_1_to_10(tmp_path):
    images = known("svhn_cropped", "test")[0]
    for y, words in (([0] * 8, "not 1 to 10"), ([11] * 8, "not 1 to 10"), ([1] * 7, "8 images, b")):
        content = {"X": np.moveaxis(images, 0, -1), "y": np.array(y)[:, None]}
        scipy.io.savemat(tmp_path / "test_32x32.mat", content)
        with pytest.raises(ValueError, match=words):
            read("svhn_cropped", "test", tmp_path / "test_32x32.mat")


def test_idx_files_have_as_many_values_as_they_say(tmp_path):
    images, labels = archive_files.write(tmp_path, "mnist")[2:]
    whole = gzip.decompress(images.read_bytes())
    for data, words in (
        (whole[:-1], r"it has 6,271 values for the shape \[8, 28, 28\]"),
        (whole + b"x", "it has 6,273 values"),
        (b"\0\0\x09" + whole[3:], "no IDX file of bytes"),
        (b"", "no IDX file of bytes"),
    ):
        images.write_bytes(gzip.compress(data))
        with pytest.raises(ValueError, match=words):
            read("mnist", "test", images, labels)
    with pytest.raises(ValueError, match="it has 25 images, but 8 of label"):
        read("mnist", "test", archive_files.write(tmp_path, "mnist")[0], labels)
