import json

import numpy as np
import pytest

import ecood.score
from ecood import data, encoders, metrics, splits
from ecood.errors import InputError
from ecood.evaluation import sets
from experiments import encoder_study as study
from experiments import figures
from tests import small

TRAIN = small.images(240)
INSTALLED = encoders.efficientnet_lite0_installed()
SPLIT = splits.Split(TRAIN[:228], TRAIN[228:], TRAIN[:0])
TESTS = {"cifar10": small.images(30, seed=1), "svhn_cropped": 255 - small.images(30, seed=2)}


@pytest.fixture(scope="module")
def scorer():
    flow = small.gaussian().replace(trained_on=splits.remember(SPLIT.train))
    return ecood.score.fit(flow, small.encoder(), SPLIT, noise_strength=0.1)


def test_an_encoder_has_one_colour_in_every_figure():
    assert {"compact", *encoders.offline(3)} <= set(figures.ENCODERS)


@pytest.mark.slow
def test_the_whole_bank_is_the_scorers(monkeypatch, scorer):
    monkeypatch.setattr(study, "SIZES", (40, 1_000))
    rows = study.study(sets.IDSet("cifar10", scorer, SPLIT, TESTS), small.encoder())
    assert [row["bank"] for row in rows] == [40, len(SPLIT.train)]
    whole = ecood.score.fit(small.gaussian(), small.encoder(), SPLIT)
    seen = [whole.detect(images) for images in TESTS.values()]
    assert rows[1]["noise_strength"] == pytest.approx(float(whole.state.noise_strength))
    assert rows[1]["spem"]["auroc"] == pytest.approx(metrics.auroc(*(s.score for s in seen)))
    of_similarity = metrics.evaluate(*(-s.similarity for s in seen))
    assert rows[1]["similarity"]["auroc"] == pytest.approx(of_similarity.auroc)
    assert rows[1]["similarity"]["auroc_ci"] == pytest.approx(list(of_similarity.auroc_ci))


def test_the_report_names_what_is_missing_and_a_second_run_embeds_nothing(
    monkeypatch, tmp_path, scorer
):
    images = {("cifar10", "train"): TRAIN} | {(n, "test"): x for n, x in TESTS.items()}

    def load_images(source, name, split, *, limit=None):
        if (name, split) not in images:
            raise InputError(f"no {name} here.")
        return images[name, split][:limit]

    asked = []

    def mine(x):
        asked.append(x.shape)
        return x.reshape(len(x), -1).astype("float32")

    monkeypatch.setattr(data, "load_images", load_images)
    monkeypatch.setattr(ecood.score, "shipped", lambda: ["cifar10"])
    monkeypatch.setattr(ecood.score, "load", lambda name: scorer)
    monkeypatch.setattr(encoders, "offline", lambda *_: {"mine": encoders.encoder(mine)})
    monkeypatch.setattr(study, "SIZES", (50,))
    monkeypatch.setattr(study, "forget_programs", lambda: None)
    words = ["--out", str(tmp_path)]
    study.run(study.build_parser().parse_args(words))
    result = json.loads((tmp_path / "report.json").read_text())
    assert [row["bank"] for row in result["rows"]] == [50, 228]
    assert {m["ood"] for m in result["missing"]} == {"imagenet32", "celeb_a", "cifar100"}
    text = (tmp_path / "report.md").read_text()
    assert f"{result['rows'][1]['spem']['auroc']:.3f}" in text and "all 228" in text
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")
    assert asked
    asked.clear()
    study.run(study.build_parser().parse_args(words))
    assert not asked
    again = json.loads((tmp_path / "report.json").read_text())
    np.testing.assert_equal(again["rows"], result["rows"])


def test_a_senseless_encoder_option_is_refused(capsys):
    with pytest.raises(SystemExit):
        study.build_parser().parse_args(["--encoder", "nothing.safetensors"])
    assert "expected ID=VALUE" in capsys.readouterr().err
