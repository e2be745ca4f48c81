import json

import numpy as np
import pytest

import ecood.score
from ecood import data
from ecood.score.strength import GRID
from experiments import strength_study as study
from experiments.benchmark import curves
from tests import small


def test_the_spoilt_images_keep_their_pixels_or_their_mean():
    images = small.images(5)
    shuffled = study.shuffled(images)
    assert (np.sort(shuffled.ravel()) == np.sort(images.ravel())).all()
    np.testing.assert_array_equal(shuffled[:, 4:, 4:], images[:, :4, :4])
    np.testing.assert_array_equal(shuffled[:, :4, :4], images[:, :4, 4:])
    two = np.stack([np.full((4, 4, 1), 250, np.uint8), np.full((4, 4, 1), 20, np.uint8)])
    assert (study.blended(two) == 135).all()


def _seen(rng, shift):
    bits = rng.normal(4, 1, 80)
    perturbed = bits + np.linspace(0.01, 2, len(GRID))[:, None] * (1 + shift * rng.random(80))
    return curves.Seen(rng.random(80), bits, perturbed)


def test_the_papers_form_is_the_perturbed_bits_and_ours_weighs_the_gain():
    rng = np.random.default_rng(0)
    seen = {"held_out": _seen(rng, 0.1), "other": _seen(rng, 1.0)}
    papers, ours = (curves.form_scores(form, seen)["other"] for form in ("spem_paper", "spem"))
    np.testing.assert_allclose(papers, seen["other"].perturbed)
    usual = ecood.score.reference(
        seen["held_out"].bits, seen["held_out"].perturbed[3], seen["held_out"].similarity
    )
    other = seen["other"]
    expected = ecood.score.combined(other.bits, other.perturbed[3], other.similarity, usual)
    np.testing.assert_allclose(ours[3], expected, rtol=1e-6)


def test_the_budget_is_met_and_the_best_spoiling_wins():
    rng = np.random.default_rng(1)
    seen = {"held_out": _seen(rng, 0.0)}
    values = study.CRITERIA["budget"](seen, {})
    gains = np.median(seen["held_out"].perturbed - seen["held_out"].bits, axis=1)
    assert np.argmax(values) == np.argmin(np.abs(np.log(gains / study.BUDGET)))
    held_out = np.zeros((2, 10))
    scores = {"held_out": held_out, "turned": np.stack([held_out[0], held_out[1] + 1])}
    assert study.CRITERIA["turned"](seen, scores).tolist() == [0.5, 1.0]


@pytest.fixture
def report(monkeypatch, tmp_path):
    flow, encoder = small.flow(), small.encoder()
    images = {
        ("cifar10", "train"): small.images(200),
        ("cifar10", "test"): small.images(12, seed=1),
        ("svhn_cropped", "test"): 255 - small.images(12, seed=2),
    }
    scorer = ecood.score.fit(flow, encoder, images["cifar10", "train"], noise_strength=0.1)
    monkeypatch.setattr(ecood.score, "shipped", lambda: ["cifar10"])
    monkeypatch.setattr(ecood.score, "load", lambda name: scorer)

    def load_images(source, name, split, *, limit=None):
        if (name, split) not in images:
            raise study.InputError(f"no {name} here.")
        return images[name, split][:limit]

    monkeypatch.setattr(data, "load_images", load_images)
    study.run(study.build_parser().parse_args(["--out", str(tmp_path)]))
    return json.loads((tmp_path / "report.json").read_text()), tmp_path


@pytest.mark.slow
def test_regret_is_never_negative_and_what_is_missing_is_listed(report):
    result, out = report
    assert [(r["form"], r["id"], r["ood"]) for r in result["rows"]] == [
        (form, "cifar10", "svhn_cropped") for form in curves.FORMS
    ]
    for row in result["rows"]:
        assert row["oracle"]["strength"] in GRID
        for criterion in study.CRITERIA:
            assert row[criterion]["regret"] >= 0
            total = row[criterion]["auroc"] + row[criterion]["regret"]
            assert total == pytest.approx(row["oracle"]["auroc"])
    assert {m["ood"] for m in result["missing"]} == {"imagenet32", "celeb_a", "cifar100"}
    assert "mean regret" in (out / "report.md").read_text()
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
