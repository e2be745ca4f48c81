import contextlib
import importlib
import io
import json
import types

import numpy as np
import pytest

import ecood.score
from ecood import data, encoders, flows, splits
from ecood.data import prepare
from ecood.errors import InputError
from experiments import cifar_vs_svhn as main_job
from experiments import figures
from experiments import report as reports
from tests import small
from tests.data import archive_files
from tests.data.http_files import served

DETECTORS = ["spem", "spem_paper", "likelihood", "similarity", "code", "constant_noise"]
DETECTORS += ["shuffled_noise"]
DRAW = figures.overview
SHORT = ("--data", "embedded", "--limit", "64", "--seeds", "2")  # large enough for the paradox


@pytest.fixture
def run(tmp_path):
    def run(*words, out=tmp_path / "out"):
        arguments = main_job.build_parser().parse_args([*SHORT, "--out", str(out), *words])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            main_job.run(arguments)
        report = json.loads((out / "report.json").read_text())
        return types.SimpleNamespace(printed=printed.getvalue(), report=report, out=out)

    return run


@pytest.fixture
def cheap(monkeypatch):
    """A scorer of the embedded images that is compiled in no time, in the place of the shipped.

    Nothing is drawn: one test that draws is enough.
    """
    monkeypatch.setattr(figures, "overview", lambda *_: None)
    images = data.load_images("embedded", "fashion_mnist", "train")
    split = splits.Split(images[:200], images[200:240], images[:0])
    flow = small.gaussian().replace(trained_on=splits.remember(split.train))
    scorer = ecood.score.fit(flow, encoders.pixels(), split, noise_strength=0.1)
    monkeypatch.setattr(ecood.score, "load", lambda name: scorer)
    return scorer


@pytest.fixture
def few(monkeypatch):
    """The last 600 of the shipped scorer's ID images: it was trained on the first 100 of them.

    A pass takes as many images as a set has.
    """
    every = data.load_images("embedded", "fashion_mnist", "train")
    monkeypatch.setattr(data, "load_images", lambda *words, **options: every[-600:])
    for name in ("spem", "together"):
        monkeypatch.setattr(importlib.import_module(f"ecood.score.{name}"), "PASS", 64)


def test_the_paradox_and_its_repair_are_reported(run, few):
    ran = run()
    assert ran.printed.startswith("data: fashion_mnist and mnist, in place of cifar10 and svhn")
    report, text = ran.report, (ran.out / "report.md").read_text()
    assert list(report["detectors"]) == DETECTORS
    for name, numbers in report["detectors"].items():
        low, high = numbers["auroc_ci"]
        assert 0 <= low <= numbers["auroc"] <= high <= 1
        assert {"aupr_in", "aupr_out", "fpr95"} <= set(numbers)
        assert len(numbers["auroc_seeds"]) == 2
        assert f"| {reports.title(name)} | {numbers['auroc']:.4f} [" in text
    shipped = ecood.score.load("fashion_mnist").state.noise_strength
    assert report["noise_strength"] == pytest.approx(float(shipped))
    assert report["data"]["source"] == "embedded" and report["data"]["n_id_test"] == 64
    assert report["data"]["n_id_train"] == 570 and report["data"]["n_id_held_out"] == 30
    assert [strength for strength, *_ in report["curve"]] == list(ecood.score.GRID)
    assert {"command", "settings", "versions", "git_revision", "date"} <= set(report)
    assert report["detectors"]["likelihood"]["auroc"] < 0.4
    assert report["detectors"]["spem"]["auroc"] > 0.8
    assert report["curve"][0][2] < 0.4  # the paper's form with next to no noise
    assert (ran.out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_fewer_images_than_are_shown_are_drawn(run, cheap, monkeypatch):
    monkeypatch.setattr(figures, "overview", DRAW)
    ran = run("--limit", "5")
    assert (ran.out / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_without_noise_the_papers_form_is_the_likelihood(run, cheap):
    report = run("--noise-strength", "0").report
    paper, likelihood = (report["detectors"][name] for name in ("spem_paper", "likelihood"))
    assert paper["auroc_seeds"] == likelihood["auroc_seeds"]


def test_the_scorer_is_scored_as_it_is_and_a_second_run_computes_nothing(run, cheap):
    ran = run()
    assert ran.report["noise_strength"] == pytest.approx(0.1)
    files = {path: path.stat().st_mtime_ns for path in ran.out.rglob("*.npz")}
    assert run().report["detectors"] == ran.report["detectors"]
    assert all(path.stat().st_mtime_ns == when for path, when in files.items())
    with np.load(ran.out / "scores" / "fashion_mnist" / "spem" / "0_mnist.npz") as kept:
        told = {name: kept[name] for name in ecood.score.Detection._fields}
    detection = cheap.detect(data.load_images("embedded", "mnist", "test", limit=64))
    for name, values in told.items():
        np.testing.assert_allclose(values, getattr(detection, name), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_machine_with_a_network_gets_the_real_pair(run, cheap, tmp_path, monkeypatch):
    monkeypatch.setitem(archive_files.COUNTS, "train", 60)
    names = ("cifar10", "svhn_cropped")
    paths = {name: archive_files.write(tmp_path / "published", name) for name in names}
    train = archive_files.known("cifar10", "train")[0]
    split = splits.Split(train[:40], train[40:], train[:0])
    scorer = ecood.score.fit(cheap.flow, cheap.encoder, split, noise_strength=0.1)
    monkeypatch.setattr(ecood.score, "load", lambda name: scorer)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    with served(tmp_path / "published") as server:
        known = {k: archive_files.remotes(found, server.address) for k, found in paths.items()}
        monkeypatch.setattr(prepare, "official", known.__getitem__)
        ran = run("--data", "auto", "--seeds", "1")
    assert "cifar10 and svhn_cropped are from a download, prepared in" in ran.printed
    assert ran.report["data"]["n_id_test"] == ran.report["data"]["n_ood_test"] == 8
    assert sorted(name for name, _ in server.asked) == [
        "cifar-10-binary.tar.gz",
        "test_32x32.mat",
        "train_32x32.mat",
    ]
    again = data.load("auto", *names)  # the network is gone
    assert "are from the data that TFDS has prepared in" in again.reason


@pytest.mark.slow
def test_a_flow_alone_gets_an_encoder_and_becomes_a_scorer(run, monkeypatch, cheap, tmp_path):
    monkeypatch.setattr(flows, "load", lambda path: cheap.flow)
    monkeypatch.setattr(ecood.score.Scorer, "save", lambda scorer, out: out.mkdir(parents=True))
    (tmp_path / "flow.safetensors").write_bytes(b"")
    ran = run("--flow", str(tmp_path / "flow.safetensors"))
    assert ran.report["encoder"] == cheap.encoder.name
    assert min(abs(np.subtract(ran.report["noise_strength"], ecood.score.GRID))) < 1e-6
    assert (ran.out / "scorer").is_dir() and "is not known" not in ran.printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--noise-strength", "much"), "noise_strength is 'much'"),
        (("--noise-strength", "-1"), "noise_strength is -1.0"),
        (("--seeds", "0"), "--seeds is 0"),
        (("--flow", "nonesuch"), "there is no scorer 'nonesuch'"),
        (("--data", "nonesuch"), "nonesuch is not there"),
        (("--train", "--minutes", "0"), "minutes is 0.0; expected a finite number above 0"),
    ],
)
def test_wrong_command_lines_end_in_one_sentence_and_leave_nothing(run, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        run(*words)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_trains_a_flow_and_an_encoder(run):
    ran = run("--train", "--minutes", "0.05", "--seeds", "1")
    flow = flows.load(ran.out / "flow.safetensors")
    train = data.load_images("embedded", "fashion_mnist", "train")
    assert splits.count_known(train, flow.trained_on) == ran.report["data"]["n_id_train"] == 9500
    assert ecood.score.load(ran.out / "scorer").fitted_on is not None
    assert "bits/dim on held-out images" in ran.printed
