import pytest

import ecood.score
from ecood import encoders
from ecood.cli import score as command
from tests import small
from tests.data.image_files import write_images


@pytest.fixture(scope="module")
def scorer():
    fitted = ecood.score.fit(
        small.blank_flow(), encoders.pixels(), small.images(60), noise_strength=0.1
    )
    return fitted.calibrate(small.images(60, seed=1))


@pytest.fixture
def saved(monkeypatch, scorer):
    """The name of a scorer that is compiled once for all tests."""
    load = ecood.score.load
    monkeypatch.setattr(
        ecood.score, "load", lambda name, **_: scorer if name == "mine" else load(name)
    )
    return "mine"


@pytest.fixture(scope="module")
def on_disk(scorer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("scorers") / "mine"
    scorer.save(directory)
    return directory


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "photos", small.images(70, seed=2))
    return tmp_path / "photos"


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(command, "CHUNK", 32)
