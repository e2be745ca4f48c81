import importlib
import json
import sys
import types

import jax
import numpy as np
import pytest

import ecood.score
from ecood import data, encoders, flows, metrics, splits
from ecood.detector import scores
from ecood.errors import InputError
from ecood.evaluation import sets
from experiments import figures
from experiments.benchmark import __main__ as benchmark
from tests import small
from tests.evaluation import tiny_sets
from tests.evaluation.tiny_sets import SEEN, TESTS, TRAIN

DETECTORS = ["spem", "spem_paper", "likelihood", "similarity"]


@pytest.fixture(scope="module")
def scorer():
    return tiny_sets.scorer()


@pytest.fixture(scope="module")
def run(tmp_path_factory, scorer):
    """Runs the benchmark on tiny sets under the real names; no ID set but CIFAR-10 has a scorer."""
    out = tmp_path_factory.mktemp("benchmark") / "out"

    def load_images(source, name, split, *, limit=None):
        images = {"train": {"cifar10": TRAIN}, "test": TESTS}[split]
        if name not in images:
            raise InputError(f"no {name} {split} here.")
        return images[name][:limit]

    def run(*words, detectors=DETECTORS, draw=False):
        arguments = ["--seeds", "2", "--out", str(out), *words, "--detectors", *detectors]
        with pytest.MonkeyPatch.context() as patch:
            for name in () if draw else ("heat_map", "roc_curves", "strength_curves"):
                patch.setattr(figures, name, lambda *arguments: None)
            benchmark.run(benchmark.build_parser().parse_args(arguments))
        read = [json.loads((out / f"{name}.json").read_text()) for name in ("benchmark", "run")]
        return types.SimpleNamespace(rows=read[0], run=read[1], out=out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_images", load_images)
        patch.setattr(ecood.score, "load", lambda name: scorer)
        patch.setattr(ecood.score, "shipped", lambda: ["cifar10"])
        patch.setattr(flows, "shipped", lambda: [])
        patch.setattr(benchmark, "forget_programs", lambda: None)  # compiled once for all runs
        yield run


@pytest.fixture(scope="module")
def first(run):
    return run(draw=True)


def kept(out):
    """What is in the cache, and when it was written."""
    folder = out / "scores"
    files = [path for path in folder.rglob("*.npz") if "along" not in str(path)]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def anew(run, before, *words, **options):
    """The files that another run writes."""
    now = kept(run(*words, **options).out)
    return {place for place in now if now[place] != before.get(place)}


def test_every_pair_is_run_or_listed_as_missing(first):
    ran = {(row["id"], row["ood"]) for row in first.rows}
    missing = {(m["id"], m["ood"]) for m in first.run["missing"]}
    assert ran == {("cifar10", "svhn_cropped"), ("cifar10", "celeb_a")}
    assert not ran & missing and all(m["reason"] for m in first.run["missing"])
    assert ran | missing == {(i, o) for i, oods in sets.OOD_OF.items() for o in oods}
    assert len(first.rows) == 2 * len(DETECTORS) * 2
    for row in first.rows:
        assert {"detector", "auroc", "aupr_in", "aupr_out", "fpr95", "seed"} <= set(row)
        assert row["auroc_ci"][0] <= row["auroc"] <= row["auroc_ci"][1]
        assert row["n_id"] == 24 and row["n_ood"] in (20, 18)
    assert {c["rival"] for c in first.run["comparisons"]} == set(DETECTORS) - {"spem"}
    assert all(c["p_value"] <= c["p_value_holm"] <= 1 for c in first.run["comparisons"])


def test_the_page_says_what_was_dropped_what_is_missing_and_what_others_published(first):
    text = (first.out / "benchmark.md").read_text()
    assert "cifar10: 3 test images of cifar10, which the scorer knew, were dropped." in text
    assert "mnist" in text.split("## Missing")[1] and "no 32x32 ImageNet crops" in text
    assert "0.9916" in text.split("## Published numbers beside ours")[1]
    for name in ("heat_map.png", "roc.png", "curves.png"):
        assert (first.out / name).read_bytes().startswith(b"\x89PNG")


def test_the_curve_passes_through_the_scores_at_the_strength_chosen_on_id_images(first):
    aurocs = {(r["detector"], r["ood"]): r["auroc"] for r in first.rows if r["seed"] == 0}
    assert len(first.run["curves"]) == 4
    for curve in first.run["curves"]:
        strength = first.run["noise_strengths"]["cifar10"][curve["form"]]
        at = int(np.argmin(np.abs(np.subtract(curve["strengths"], strength))))
        assert curve["auroc"][at] == pytest.approx(aurocs[curve["form"], curve["ood"]])
        regret = max(curve["auroc"]) - curve["auroc"][at]
        assert f"| {regret:.3f} |" in (first.out / "benchmark.md").read_text()


def test_what_is_kept_is_what_the_detector_says(first, scorer):
    with np.load(first.out / "scores" / "cifar10" / "likelihood" / "1_svhn_cropped.npz") as found:
        told = found["score"]
    state, images = scorer.flow, TESTS["svhn_cropped"]
    direct = scores(ecood.score.likelihood(scorer.flow), state, jax.random.key(1), images)
    np.testing.assert_allclose(told, direct, rtol=1e-5)
    row = next(r for r in first.rows if r["detector"] == "similarity" and r["ood"] != "celeb_a")
    pair = [-scorer.detect(x).similarity for x in (TESTS["cifar10"][:24], images)]
    assert row["auroc"] == pytest.approx(metrics.auroc(*pair))


def test_a_second_run_computes_what_is_missing_and_what_has_changed(run, first):
    before = kept(first.out)
    damaged = first.out / "scores" / "cifar10" / "likelihood" / "1_celeb_a.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert anew(run, before) == {"cifar10/likelihood/1_celeb_a.npz"}
    assert json.loads((first.out / "benchmark.json").read_text()) == first.rows
    changed = anew(run, kept(first.out), "--limit", "10", detectors=["likelihood"])
    assert len([place for place in changed if "likelihood" in place]) == 2 * 3
    assert not [place for place in changed if "similarity" in place]


def test_other_further_flows_are_scored_anew_and_nothing_else_is(run, first):
    def moved(name):
        flow = small.gaussian()
        return flow.replace(variables=flow.variables | {"mean": 0.3 if name == "A" else 0.4})

    names = ["likelihood_ratio", "waic", "likelihood"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows, "load", moved)
        words = [f"cifar10={name}" for name in ("A", "B")]
        run("--background", words[0], "--member", words[0], detectors=names)
        before = kept(first.out)
        changed = anew(run, before, "--background", words[1], "--member", words[0], detectors=names)
    assert {place.split("/")[1] for place in changed} == {"likelihood_ratio"}
    assert len(changed) == 2 * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", "0"), "--seeds is 0; expected at least one noise seed"),
        (("--id", "mnist"), "no pair can be run: mnist against fashion_mnist: no mnist train"),
        (("--out", "elsewhere", "--detectors", "spem", "guess"), "there is no detector guess; exp"),
        (
            ("--detector", "ecood.score:similarities", "--detector", "ecood.score:similarities"),
            "two detectors are named similarities; give one of them another name",
        ),
        (
            ("--out", "elsewhere", "--detector", "ecood.score:spem", "--detectors", "likelihood"),
            "two detectors are named spem; give one of them another name",
        ),
    ],
)
def test_a_wrong_command_line_is_one_sentence_before_anything_is_computed(run, words, message):
    with pytest.raises(InputError, match=message):
        benchmark.run(benchmark.build_parser().parse_args(words))


def test_a_flow_for_no_known_set_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.build_parser().parse_args(["--scorer", "imagenet=here"])
    assert "expected ID=VALUE with ID one of cifar10" in capsys.readouterr().err


def test_shipped_further_flows_stand_beside_the_shipped_flow_alone(monkeypatch):
    monkeypatch.setattr(flows, "shipped", lambda: ["cifar10_background"])
    monkeypatch.setattr(flows, "load", lambda path: path)

    def found(kind, *words):
        guests = benchmark.invited(benchmark.build_parser().parse_args(words), "cifar10", {})
        return getattr(guests, f"{kind}s")

    assert found("background") == ["cifar10_background"] and found("member") == []
    assert found("background", "--scorer", "cifar10=mine") == []
    assert found("background", "--scorer", "svhn_cropped=mine") == ["cifar10_background"]
    assert found("background", "--background", "cifar10=a", "--background", "mnist=b") == ["a"]
    assert found("member", "--member", "cifar10=c", "--scorer", "cifar10=mine") == ["c"]


OWN = """
from ecood.detector import Detector, Scored

import my_helper


def mine(flow, encoder):
    def detect(state, key, images):
        return Scored(my_helper.SIGN * images.astype("float32").mean(axis=(1, 2, 3)))

    return Detector(lambda key, split: None, detect)
"""


def test_your_detector_takes_part_and_is_computed_anew_when_its_source_changes(run, tmp_path):
    found = []
    for sign in ("+1.0", "-1.0"):
        (tmp_path / "my_module.py").write_text(OWN)
        (tmp_path / "my_helper.py").write_text(f"SIGN = {sign}")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(tmp_path))
            for name in ("my_module", "my_helper"):
                sys.modules.pop(name, None)
            importlib.invalidate_caches()
            sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
            try:
                words = ["--detector", "my_module:mine", "--against", "mine"]
                result = run(*words, detectors=["likelihood"])
            finally:
                sys.dont_write_bytecode = before
        found.append([row["auroc"] for row in result.rows if row["detector"] == "mine"])
        assert {c["detector"] for c in result.run["comparisons"]} == {"mine"}
        assert {c["rival"] for c in result.run["mean_comparisons"]} == {"likelihood"}
    np.testing.assert_allclose(found[0], 1 - np.array(found[1]))


def test_another_flow_takes_the_place_of_the_scorers(run, first):
    """It is fitted anew, to the same images; what needs no flow is the same to the digit."""
    other = small.gaussian()
    other = other.replace(variables=jax.tree.map(lambda x: 1.1 * x, other.variables))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows, "load", lambda name: other)
        found = run("--flow", "cifar10=mine", detectors=["likelihood", "similarity"])
    now, then = (
        {(r["ood"], r["seed"]): r["auroc"] for r in rows if r["detector"] == "likelihood"}
        for rows in (found.rows, first.rows)
    )
    assert now.keys() == then.keys() and now != then


@pytest.mark.slow
def test_retrained_flows_and_other_encoders_take_part(run):
    """Each flow with a lambda of its own; intervals over flows and images hold the mean."""

    def load(name):
        flow = small.gaussian().replace(trained_on=SEEN)
        return flow.replace(variables=jax.tree.map(lambda x: float(name) * x, flow.variables))

    words = [word for scale in ("1.1", "0.8") for word in ("--retrained", f"cifar10={scale}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows, "load", load)
        patch.setattr(encoders, "load", lambda path: encoders.pixels().replace(name="mine"))
        named = ["spem", "likelihood", "similarity", "waic"]
        found = run(*words, "--member", "cifar10=1.2", "--encoder", "cifar10=x", detectors=named)
        fewer = run(*words, "--retrained-detectors", "spem", detectors=named[:3]).run["retrained"]
        others = run("--encoder", "cifar10=x", detectors=["spem", "similarity_mine"])
    over = found.run["retrained"]
    aurocs = {(r["ood"], r["detector"]): r for r in over["aurocs"]}
    assert {detector for _, detector in aurocs} == set(named)
    for ood in ("svhn_cropped", "celeb_a"):
        each = aurocs[ood, "likelihood"]
        assert len(each["each"]) == 2 and each["each"][0] != each["each"][1]
        assert each["interval"][0] <= each["auroc"] <= each["interval"][1]
        assert len(set(aurocs[ood, "similarity"]["each"])) == 1
    assert {c["rival"] for c in over["mean_comparisons"]} == set(named) - {"spem"}
    text = (found.out / "benchmark.md").read_text()
    assert "less it, over flows and images" not in text  # the last run had no such flows
    assert {r["detector"] for r in others.rows} == {"spem", "similarity_mine"}
    assert {r["detector"] for r in fewer["aurocs"]} == {"spem", "similarity"}


def test_retrained_flows_that_cannot_be_compared_are_refused(run):
    knows = small.gaussian().replace(trained_on=splits.remember(TESTS["svhn_cropped"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows, "load", lambda name: knows)
        with pytest.raises(InputError, match="--retrained gives cifar10 one flow"):
            run("--retrained", "cifar10=a")
        with pytest.raises(InputError, match="of cifar10 was trained on images of svhn_cropped"):
            run("--retrained", "cifar10=a", "--retrained", "cifar10=b")


def test_what_is_no_detector_of_yours_is_refused_before_anything_is_read():
    for word in ("nowhere:mine", "json", "json:nothing", "json:__name__", "json:loads", ":", "a b"):
        arguments = benchmark.build_parser().parse_args(["--detector", word])
        with pytest.raises(InputError, match=f"^{word!r} cannot be used .*expected MODULE:NAME"):
            benchmark.run(arguments)


@pytest.mark.slow
def test_more_ood_sets_come_from_a_file(run, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"dots": rng.integers(0, 256, (30, 8, 8, 3), np.uint8)}
    arrays["wide"] = rng.integers(0, 256, (9, 8, 16, 3), np.uint8)
    np.savez(tmp_path / "more.npz", **arrays)
    result = run("--ood", str(tmp_path / "more.npz"), "--limit", "12")
    sizes = {row["ood"]: row["n_ood"] for row in result.rows}
    assert sizes["dots"] == 12 and "wide" not in sizes
    np.savez(tmp_path / "more.npz", dots=arrays["dots"][..., 0])
    with pytest.raises(InputError, match="dots in .* expected uint8"):
        run("--ood", str(tmp_path / "more.npz"))
    with pytest.raises(InputError, match="cannot be read as an .npz"):
        run("--ood", str(tmp_path / "nothing.npz"))
