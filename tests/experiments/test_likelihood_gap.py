import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.theory import along, crossing
from ecood.theory.indexed import Terms
from experiments import report
from experiments.likelihood_gap import __main__ as likelihood_gap
from experiments.likelihood_gap import gaussian, images, plane
from tests.evaluation import looks


def test_the_figure_is_drawn_and_the_columns_agree_with_the_curve(tmp_path):
    curve, columns = images.measure(*looks.seen(images.STRENGTHS), looks.DIM)
    before = columns["gap before"][0]
    assert before == curve.measured[0]
    terms = columns["KL(Q,p) - KL(P,p)"] + columns["H(Q) - H(P)"]
    assert terms == pytest.approx(before, abs=1e-4)
    images.figure(tmp_path / "images.png", {name: curve for name in "abcd"})
    assert (tmp_path / "images.png").read_bytes().startswith(b"\x89PNG")


def test_a_certificate_that_begins_at_minus_infinity_is_not_given_for_no_noise():
    """Of the noise alone nothing is known without noise: its entropy is -inf."""
    rising = jnp.arange(len(plane.STRENGTHS)) + 1.0
    zero = jnp.zeros_like(rising)
    terms = Terms(zero, zero, rising, rising, rising.at[0].set(-jnp.inf))
    scores = jnp.tile(jnp.arange(4.0), (len(rising), 1))
    law = along.Seen(terms, scores, scores, jnp.arange(4.0))
    row = plane.repair_row(along.Pair("Q", law, law))
    assert row["certified, indexed"] == 0 and row["measured"] is None
    assert row["certified, floor"] == pytest.approx(plane.STRENGTHS[1])


@pytest.mark.slow
def test_between_the_ends_of_what_is_certified_for_gaussians_all_is_certified():
    (case, *_), scales = gaussian.cases().values(), np.geomspace(0.02, 20.0, 60)
    with jax.enable_x64(True):
        bound = np.asarray(case.certified(jnp.asarray(scales)))
        exact = np.asarray(case.gap(jnp.asarray(scales)))
    start, end = crossing.positive_range(scales, bound)
    assert 0.02 < start < end < 20
    np.testing.assert_array_equal(bound > 0, (start <= scales) & (scales <= end))
    assert (exact[start <= scales] > 0).all()  # to the end, where the proof has ended


def test_what_is_paid_beyond_the_code_bounds_the_divergence():
    """b - L of a law that the density does not have is certified, of the density's own is not."""
    rng = np.random.default_rng(0)
    lengths = rng.normal(3.0, 0.2, size=(2, 400))
    own, other = lengths[0] - 0.1, lengths[1] + rng.normal(0.5, 0.1, size=400)
    found = images.mismatch((own, lengths[0]), (other, lengths[1]))
    assert found["KL(P,p) at least"] == 0 < found["KL(Q,p) at least"] < found["b - L on Q"][0]
    assert found["b - L on P"][0] == pytest.approx(-0.1) and found["AUROC"] == 1.0


@pytest.mark.slow
def test_quick_run_writes_a_report_that_keeps_the_theorems(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["likelihood_gap", "--quick", "--out", str(tmp_path)])
    report.main(likelihood_gap.run, likelihood_gap.build_parser())

    def refuse(constant):
        raise AssertionError(f"{constant} in the report")

    result = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert result["settings"]["seed"] == 0 and result["versions"]["jax"]
    gaussians, planes = result["sections"]["gaussian"], result["sections"]["plane"]
    for row in gaussians["tables"][0]["rows"]:
        value, error = row["measured"]
        assert abs(value - row["gap after"]) < 4.5 * error, row["case"]
        start = row["certified from"]
        assert start is None or row["exact"] <= start < row["certified to"], row["case"]
    for row in planes["tables"][1]["rows"]:
        assert row["certificate"] <= row["gap"], row
        assert row["KL(P' to p)"] > 0 and row["KL(Q' to p)"] > 0
    by_name = {row["Q"]: row for row in planes["tables"][0]["rows"]}
    between = by_name["between the modes"]
    assert between["gap before"] < 0 < between["measured"] < between["certified, indexed"]
    assert between["certified, indexed"] <= between["certified, mean"]
    assert between["certified, mean"] <= between["certified, floor"]
    assert by_name["on a mode"]["measured"] is None
    text = " ".join(planes["text"].split())
    kl, deviation = map(float, re.search(r"= (.*) nats\. .* to (\S*) standard", text).groups())
    assert 0 < kl < 0.02 and deviation < 4.5
    real = result["sections"]["images"]["tables"][0]["rows"][0]
    assert (real["ID"], real["OOD"]) == ("fashion_mnist", "mnist")
    assert real["gap before"][0] < 0 < real["turns positive"] < 0.2
    assert 0.5 < real["second order"] / real["turns positive"] < 2
    excess = result["sections"]["images"]["tables"][1]["rows"][0]
    assert excess["b - L on Q"][0] > excess["KL(Q,p) at least"] > 0.5 and excess["AUROC"] > 0.95
    for section in result["sections"].values():
        assert (tmp_path / section["figure"]).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.md").read_text()
    assert all(row["case"] in page for row in gaussians["tables"][0]["rows"])
