import dataclasses
import html
import json
import os

import numpy as np
import pytest

import ecood.score
from ecood import cli, encoders
from ecood.cli import score as command
from ecood.report import collected
from tests import small
from tests.data.image_files import write_images
from tests.report import example


@pytest.fixture
def saved(monkeypatch):
    """The name of a scorer that is compiled once for all tests."""
    load = ecood.score.load
    monkeypatch.setattr(command, "CHUNK", 64)
    monkeypatch.setattr(
        ecood.score, "load", lambda name, **_: example.scorer() if name == "mine" else load(name)
    )
    return "mine"


def run(*words):
    return cli.main(["report", *map(str, words)])


def test_a_folder_becomes_one_file_and_a_summary(saved, tmp_path, capsys):
    images = example.images()
    write_images(tmp_path / "photos", images)[3].write_bytes(b"torn")
    words = ("--scorer", saved, "--out", tmp_path / "r.html", "--json-summary", tmp_path / "s.json")
    assert run(tmp_path / "photos", *words) == 1
    page = (tmp_path / "r.html").read_text()
    assert "0003.png cannot be decoded" in page and page.count('class="card"') == 129
    assert "All names begin with" in page and "python -m ecood" in page
    told = capsys.readouterr().err
    assert told.splitlines()[0].startswith("scorer: mine (images of 8 x 8 pixels and 3 channels")
    assert told.splitlines()[-1] == "scored 129 images, passed over 1 (1 .png)"
    found = json.loads((tmp_path / "s.json").read_text())
    kept = [i for i in range(len(images)) if i != 3]
    assert found["flagged"] == example.scorer().is_ood(images[kept]).sum()
    assert found["drift"]["n"] == found["scored"] == 129
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "r.html", "s.json"]


def test_the_page_starts_at_the_rate_that_was_asked_for(saved, tmp_path, capsys):
    write_images(tmp_path / "photos", example.images())
    words = ("--fpr", "0.29", "--out", tmp_path / "r.html")
    assert run(tmp_path / "photos", "--scorer", saved, *words) == 0
    flagged, page = example.scorer().is_ood(example.images(), 0.29).sum(), words[-1].read_text()
    assert f'<strong id="flagged">{flagged}</strong>' in page and ">29 %</output>" in page
    assert f"flagged {flagged} at a false-positive rate of 0.29 (" in capsys.readouterr().err


def test_page_and_summary_appear_together_or_not_at_all(saved, tmp_path, capsys):
    write_images(tmp_path / "photos", example.images()[:3])
    words = ("--scorer", saved, "--out", tmp_path / "r.html", "--json-summary", "/dev/full")
    assert run(tmp_path / "photos", *words) == 2
    assert "/dev/full" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_reader_that_has_gone_ends_a_report_as_it_does_scores(saved, tmp_path, monkeypatch):
    if not os.path.isdir("/dev/fd"):
        pytest.skip("needs /dev/fd")
    write_images(tmp_path / "photos", example.images()[:3])
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # the standard output is the tests' here
    reader, writer = os.pipe()
    os.close(reader)
    assert run(tmp_path / "photos", "--scorer", saved, "--out", f"/dev/fd/{writer}") == 141
    os.close(writer)


def test_embeddings_of_elsewhere_go_beside_the_images(tmp_path, monkeypatch, capsys):
    inside = example.scorer()
    outside = dataclasses.replace(
        inside,
        state=inside.state.replace(encoder=encoders.elsewhere(192, name=inside.encoder.name)),
    )
    monkeypatch.setattr(ecood.score, "load", lambda name, **_: outside)
    images = example.images()[:70]
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "e.npy", np.asarray(inside.encoder.embed(images)))
    monkeypatch.setattr(command, "CHUNK", 32)
    monkeypatch.setattr(collected, "SHOWN", 9)
    words = (tmp_path / "x.npy", "--scorer", "outside", "--json-summary", tmp_path / "s.json")
    out = ("--out", tmp_path / "r.html")
    assert run(*words, *out) == 2
    assert "or --embeddings of a command" in capsys.readouterr().err
    assert run(*words, *out, "--embeddings", tmp_path / "e.npy") == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["flagged"] == inside.is_ood(images).sum()
    explained = inside.explain(images[np.argsort(-inside(images), kind="stable")[:9]]).sentences()
    assert [html.escape(each) in out[1].read_text() for each in explained] == [True] * 9
    assert run(*words, "--out", tmp_path / "e.npy", "--embeddings", tmp_path / "e.npy") == 2
    assert "which this run reads" in capsys.readouterr().err


def test_the_folder_that_was_fitted_is_told_and_not_flagged(saved, tmp_path, capsys):
    train = small.split(120, calibration=0.4).train
    write_images(tmp_path / "photos", np.concatenate([example.images()[:50], train]))
    words = ("--scorer", saved, "--out", tmp_path / "r.html", "--json-summary", tmp_path / "s.json")
    assert run(tmp_path / "photos", *words) == 0
    told = f"the scorer was made from {len(train)} of the {50 + len(train)} images: such scores"
    assert told in capsys.readouterr().err
    found = json.loads((tmp_path / "s.json").read_text())
    assert (found["made_from"], found["drift"]["n"]) == (len(train), 50)
    assert found["flagged"] == example.scorer().is_ood(example.images()[:50]).sum()
    assert f"was made from {len(train)} others" in words[3].read_text()


def test_few_calibration_images_start_the_page_at_a_rate_that_they_allow(tmp_path, monkeypatch):
    write_images(tmp_path / "photos", small.images(2))
    few = dataclasses.replace(example.scorer(), calibration=example.scorer().calibration[:6])
    monkeypatch.setattr(ecood.score, "load", lambda name, **_: few)
    assert run(tmp_path / "photos", "--scorer", "few", "--out", tmp_path / "r.html") == 0
    assert ">15 %</output>" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere is not there"),
        (("PHOTOS", "--fpr", "2"), "fpr is 2.0; expected a rate"),
        (("PHOTOS", "--fpr", "0.02"), "48 calibration images cannot flag anything; ask for 0.021"),
        (("PHOTOS", "--out", "PHOTOS/0000.png/x"), "cannot write"),
        (("PHOTOS", "--json-summary", "PHOTOS"), "(it is a directory)"),
        (("PHOTOS", "--scorer", "nonesuch"), "there is no scorer 'nonesuch'"),
        (("TORN",), "no image could be scored: "),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(saved, tmp_path, capsys, words, message):
    write_images(tmp_path / "photos", small.images(2))
    write_images(tmp_path / "torn", small.images(1))[0].write_bytes(b"torn")
    names = {"PHOTOS": str(tmp_path / "photos"), "TORN": str(tmp_path / "torn")}
    for name, path in names.items():
        words = [word.replace(name, path) for word in words]
    before = sorted(tmp_path.rglob("*"))
    assert run("--scorer", saved, "--out", tmp_path / "r.html", *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_scorer_without_calibration_is_refused(tmp_path, monkeypatch, capsys):
    write_images(tmp_path / "photos", small.images(2))
    plain = dataclasses.replace(example.scorer(), calibration=None)
    monkeypatch.setattr(ecood.score, "load", lambda name, **_: plain)
    assert run(tmp_path / "photos", "--scorer", "plain", "--out", tmp_path / "r.html") == 2
    assert "this scorer is not calibrated" in capsys.readouterr().err
