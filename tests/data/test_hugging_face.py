"""`hf:` sources: with a stand-in of the library `datasets`, and with the library itself."""

import io
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image as Pillow

import ecood.data
from ecood.data import hub
from ecood.errors import InputError
from tests.data.image_files import encode, random_images

LABELS = [2, 0, 1, 1, 2]


class Image:
    def __init__(self, decode=True):
        del decode


class ClassLabel:
    pass


class Rows:
    """What `hub` uses of `datasets.Dataset`."""

    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __iter__(self):
        return ({name: x[i] for name, x in self.columns.items()} for i in range(len(self)))

    def __getitem__(self, name):
        return self.columns[name]

    def select(self, chosen):
        columns = {name: [x[i] for i in chosen] for name, x in self.columns.items()}
        return Rows(columns, self.features)

    def select_columns(self, names):
        return Rows({name: self.columns[name] for name in names}, self.features)

    def cast_column(self, name, kind):
        assert isinstance(kind, Image) and name in self.columns
        return self


def rows(images, labels=LABELS, **names):
    """Rows with images in PNG, and labels, under these names of columns."""
    image, label = names.get("image", "image"), names.get("label", "label")
    files = [{"bytes": encode(x), "path": None} for x in images]
    return Rows({label: list(labels), image: files}, {label: ClassLabel(), image: Image()})


@pytest.fixture
def library(monkeypatch):
    """The library, with the data sets by (name, configuration, split)."""
    known = {}

    def load_dataset(name, config, *, split):
        found = known[name, config, split]
        if isinstance(found, Exception):
            raise found
        return found

    module = types.SimpleNamespace(Image=Image, ClassLabel=ClassLabel, load_dataset=load_dataset)
    module.config = types.SimpleNamespace(HF_HUB_OFFLINE=True)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return known


def test_images_and_labels_of_a_split(library):
    images = random_images(0, 5)
    library["owner/name", None, "validation"] = rows(images)
    found = ecood.data.load_images("hf:owner/name", "any", "validation")
    np.testing.assert_array_equal(found, images)
    found = ecood.data.load_images("hf:owner/name", "any", "validation", limit=2)
    np.testing.assert_array_equal(found, images[:2])
    assert ecood.data.load_labels("hf:owner/name", "any", "validation").tolist() == LABELS
    assert ecood.data.load_labels("hf:owner/name", "any", "validation", limit=9).dtype == np.int64


def test_a_pair_and_its_reason(library):
    for seed, (name, config, split) in enumerate(
        [("a/cats", None, "train"), ("a/cats", None, "test"), ("b/dogs", "small.v1", "test")]
    ):
        library[name, config, split] = rows(random_images(seed, 5))
    pair = ecood.data.load("hf:a/cats", "cats", "dogs", ood_source="hf:b/dogs/small.v1")
    np.testing.assert_array_equal(pair.ood_test, random_images(2, 5))
    assert pair.source == "hf:a/cats + hf:b/dogs/small.v1"
    assert pair.reason == (
        "cats (ID) is from the Hugging Face hub's a/cats, as asked for, and dogs (OOD) from the "
        "Hugging Face hub's b/dogs/small.v1, as asked for."
    )


@pytest.mark.parametrize("image", ["image", "img", "picture"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label"])
def test_columns_have_many_names(library, image, label):
    library["a/b", None, "test"] = rows(random_images(0, 5), image=image, label=label)
    np.testing.assert_array_equal(
        ecood.data.load_images("hf:a/b", "any", "test"), random_images(0, 5)
    )
    assert ecood.data.load_labels("hf:a/b", "any", "test").tolist() == LABELS


def test_images_may_be_files(library, tmp_path):
    image = random_images(0, 1)[0]
    (tmp_path / "image.png").write_bytes(encode(image))
    files = [{"bytes": None, "path": str(tmp_path / "image.png")}]
    library["a/b", None, "test"] = Rows({"image": files}, {"image": Image()})
    np.testing.assert_array_equal(ecood.data.load_images("hf:a/b", "any", "test"), [image])


def clear():
    buffer = io.BytesIO()
    Pillow.new("RGBA", (4, 4)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


WRONG = {
    "has the columns of images .none.; expected image": Rows({"a": [1]}, {"a": ClassLabel()}),
    "columns of images left, right; expected image, img or": Rows(
        {"left": [1], "right": [1]}, {"left": Image(), "right": Image()}
    ),
    "row 1, has no image": Rows(
        {"image": [*rows(random_images(0, 1), [0])["image"], None]}, {"image": Image()}
    ),
    "row 0, is an image of mode RGBA with transp": Rows({"image": [clear()]}, {"image": Image()}),
    "row 0, cannot be decoded": Rows({"image": [{"bytes": b"x", "path": ""}]}, {"image": Image()}),
    "row 1, has shape .3, 3, 3. but .* has .5, 4, 3.": Rows(
        {
            "image": rows(random_images(0, 1), [0])["image"]
            + rows(random_images(0, 1, (3, 3, 3)), [0])["image"]
        },
        {"image": Image()},
    ),
    " is empty": rows([], []),
    r"cannot be had .ValueError: Unknown split .test.* expected a data set of images at https": (
        ValueError('Unknown split "test". Should be one of ["train"].')
    ),
    "cannot be had .ConnectionError: no route.; .*check the name, the split and the network": (
        ConnectionError("no\nroute")
    ),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_no_data_set_of_images_is_refused(library, words):
    library["a/b", None, "test"] = WRONG[words]
    with pytest.raises(InputError, match=f"^hf:a/b, split test,.*{words}"):
        ecood.data.load_images("hf:a/b", "any", "test")


@pytest.mark.parametrize("labels", [[0, -1], ["a", "b"], [[1], [2]]])
def test_labels_that_are_not_known_are_refused(library, labels):
    library["a/b", None, "test"] = rows(random_images(0, 2), labels)
    with pytest.raises(InputError, match="hf:a/b, split test, has no known labels among label, im"):
        ecood.data.load_labels("hf:a/b", "any", "test")
    library["a/b", None, "test"] = Rows({"image": [1]}, {"image": Image()})
    with pytest.raises(InputError, match="has no known labels among image"):
        ecood.data.load_labels("hf:a/b", "any", "test")


@pytest.mark.parametrize("name", ["hf:", "hf:mnist", "hf:a/b/c/d", "hf:../x", "hf:a/b?c"])
def test_names_that_the_hub_has_not_are_refused(library, name):
    with pytest.raises(InputError, match="is no data set of the Hugging Face hub; expected hf:OWN"):
        ecood.data.load_images(name, "any", "test")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"hf:a/b is read by the library datasets.*ecood\[hf\]"):
        ecood.data.load_images("hf:a/b", "any", "test")


@pytest.mark.parametrize("host", [None, "huggingface.co"])
def test_without_a_network_the_library_does_not_try_for_long(library, monkeypatch, host):
    config, seen = sys.modules["datasets"].config, []
    constants = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(constants=constants))
    config.HF_HUB_OFFLINE, config.HF_ENDPOINT = False, "https://huggingface.co"
    monkeypatch.setattr(hub, "silent", lambda urls, timeout: host)

    def load_dataset(*_, split):
        seen.append((config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))
        raise ConnectionError

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load_dataset)
    with pytest.raises(InputError, match="cannot be had .ConnectionError"):
        ecood.data.load_images("hf:a/b", "any", "test")
    assert seen == [(bool(host), bool(host))]
    assert not config.HF_HUB_OFFLINE and not constants.HF_HUB_OFFLINE


@pytest.mark.reference
def test_the_library_itself(tmp_path):
    """In a process of its own, with the library's settings, against a hub on the loopback."""
    pytest.importorskip("datasets")
    program = pathlib.Path(__file__).with_name("hub_program.py")
    command = [sys.executable, "-W", "ignore", str(program), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    told = ran.stdout.splitlines()
    assert told[:4] == ["train True", "test True", "limit True", "labels [0, 1, 2, 0, 1]"]
    extra, config, missing, kept, lost = told[4:]
    assert extra.startswith("hf:owner/things, split extra, cannot be had (ValueError: Unknown spl")
    assert config.startswith("hf:owner/things/small, split test, cannot be had (ValueError: Build")
    assert missing.startswith("hf:owner/missing, split test, cannot be had (")
    # The hub is gone.
    assert kept == "kept True"
    assert lost.startswith("hf:owner/missing, split test, cannot be had (ConnectionError: ")
