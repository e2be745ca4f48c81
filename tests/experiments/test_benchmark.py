import dataclasses
import json

import jax
import numpy as np
import pytest

import ecood.score
from ecood import data
from ecood.batches import map_images
from ecood.errors import InputError
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import cache, curves, pictures, sets, tables
from tests import small

DETECTORS = ["spem", "spem_paper", "likelihood", "similarity"]


@pytest.fixture(scope="module")
def scorer():
    return ecood.score.fit(small.flow(), small.encoder(), small.images(100), noise_strength=0.1)


@pytest.fixture
def tiny(monkeypatch, tmp_path, scorer):
    """Two small sets under the real names, a third without a scorer, and how to run them."""
    images = {
        "cifar10": {"train": small.images(100), "test": small.images(24, seed=1)},
        "svhn_cropped": {"test": 255 - small.images(20, seed=2)},
        "celeb_a": {"test": small.images(18, seed=3, shape=(16, 12, 3))},
    }

    def load_images(source, name, split, *, limit=None):
        if split not in images.get(name, {}):
            raise InputError(f"no {name} {split} here.")
        return images[name][split][:limit]

    monkeypatch.setattr(data, "load_images", load_images)
    monkeypatch.setattr(ecood.score, "load", lambda name: scorer)
    monkeypatch.setattr(ecood.score, "shipped", lambda: ["cifar10"])
    monkeypatch.setattr(benchmark.flows, "shipped", lambda: [])
    monkeypatch.setattr(benchmark, "_strength", lambda detector, train: 0.1)
    monkeypatch.setattr(pictures, "heat_map", lambda path, table: None)
    monkeypatch.setattr(pictures, "roc_curves", lambda path, scores: None)
    monkeypatch.setattr(pictures, "strength_curves", lambda path, found, chosen: None)
    out = tmp_path / "out"

    def run(*words, detectors=DETECTORS):
        arguments = ["--seeds", "2", "--out", str(out), *words, "--detectors", *detectors]
        benchmark.run(benchmark.build_parser().parse_args(arguments))
        table = json.loads((out / "benchmark.json").read_text())
        return table, json.loads((out / "run.json").read_text()), out

    return run


def test_every_pair_is_run_or_listed_as_missing(tiny):
    table, run, out = tiny()
    ran = {(row["id"], row["ood"]) for row in table}
    missing = {(m["id"], m["ood"]) for m in run["missing"]}
    assert ran == {("cifar10", "svhn_cropped"), ("cifar10", "celeb_a")}
    assert ran | missing == {(i, o) for i, oods in sets.OOD_OF.items() for o in oods}
    assert not ran & missing and all(m["reason"] for m in run["missing"])

    assert len(table) == 2 * len(DETECTORS) * 2
    for row in table:
        assert {"detector", "auroc", "aupr_in", "aupr_out", "fpr95", "seed"} <= set(row)
        assert row["auroc_ci"][0] <= row["auroc"] <= row["auroc_ci"][1]
        assert row["n_id"] == 24 and row["n_ood"] in (20, 18)
    assert {c["rival"] for c in run["comparisons"]} == set(DETECTORS) - {"spem"}
    assert {(c["form"], c["ood"]) for c in run["curves"]} == {
        (form, ood) for form in curves.FORMS for _, ood in ran
    }
    assert all(len(c["auroc"]) == len(c["strengths"]) for c in run["curves"])
    text = (out / "benchmark.md").read_text()
    assert "mnist" in text.split("## Missing")[1] and "no 32x32 ImageNet crops" in text


def test_a_second_run_reads_what_the_first_computed_and_a_change_is_computed_anew(
    tiny, monkeypatch
):
    first, _, out = tiny(detectors=["likelihood", "similarity"])
    scored = []
    real = benchmark.detector_scores
    monkeypatch.setattr(benchmark, "detector_scores", lambda *args: scored.append(1) or real(*args))
    second, _, _ = tiny(detectors=["likelihood", "similarity"])
    assert first == second and not scored
    with np.load(out / "scores" / "cifar10" / "likelihood" / "0_svhn_cropped.npz") as found:
        kept = found["scores"]
    flow = small.flow()
    images = 255 - small.images(20, seed=2)
    direct = map_images(
        ecood.score.likelihood(flow).score, flow.variables, jax.random.key(0), images=images
    )
    np.testing.assert_allclose(kept, direct, rtol=1e-5)
    damaged = out / "scores" / "cifar10" / "likelihood" / "1_celeb_a.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    third, _, _ = tiny(detectors=["likelihood", "similarity"])
    assert first == third and len(scored) == 1
    tiny("--limit", "10", detectors=["similarity"])
    assert len(scored) == 1 + 2 * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", "0"), "--seeds is 0; expected at least one noise seed"),
        (("--scorer", "imagenet=here"), "expected ID=VALUE with ID one of cifar10"),
        (("--id", "mnist"), "no pair can be run: mnist against fashion_mnist: no mnist train"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(tiny, words, message):
    with pytest.raises(InputError, match=message):
        tiny(*words)


def test_an_unknown_detector_is_named_before_anything_is_computed(tiny, monkeypatch):
    monkeypatch.setattr(benchmark, "remembered", None)
    with pytest.raises(InputError, match="there is no detector guess; expected some of spem"):
        tiny(detectors=["guess", "spem"])


def test_every_source_file_is_part_of_the_key(tmp_path):
    key = {"seed": "0"}
    folder = tmp_path / "source" / "score"
    folder.mkdir(parents=True)
    computed = []
    for content in ("jnp.maximum", "jnp.maximum", "jnp.minimum"):
        (folder / "gain.py").write_text(content)
        cache.source_digest.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cache, "SOURCES", (tmp_path / "source",))
            kept = cache.Cache(tmp_path / "scores")
            kept.get("place", key, lambda: computed.append(1) or np.zeros(1))
    cache.source_digest.cache_clear()
    assert len(computed) == 2
    assert all(place.exists() for place in cache.SOURCES)


def test_other_further_flows_are_scored_anew(tiny, monkeypatch):
    made = {
        "A": small.flow(1),
        "B": small.flow(2),
    }
    monkeypatch.setattr(benchmark.flows, "load", made.get)
    found = {}
    for name in ("A", "B", "A"):
        words = ("--background", f"cifar10={name}", "--member", f"cifar10={name}")
        table, _, out = tiny(*words, detectors=["likelihood_ratio", "waic", "likelihood"])
        for title in ("likelihood_ratio", "waic", "likelihood"):
            with np.load(out / "scores" / "cifar10" / title / "0_svhn_cropped.npz") as file:
                found.setdefault(title, []).append(file["scores"])
    for title in ("likelihood_ratio", "waic"):
        first, other, again = found[title]
        assert np.abs(first - other).max() > 0.1
        np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(*found["likelihood"][:2])


def test_a_scorer_of_your_own_is_fitted_to_your_own_images(monkeypatch):
    asked = []

    def load_images(source, name, split, *, limit=None):
        asked.append((source, name, split, limit))
        return small.images(4, shape=(8, 8, 1))

    monkeypatch.setattr(data, "load_images", load_images)
    options = {"imagenet32": None, "names": ["fashion_mnist", "mnist"], "limit": 9}
    sets.load_all("here", load_scorer=lambda name: None, own=["mnist"], **options)
    assert ("embedded", "fashion_mnist", "train", None) in asked
    assert ("here", "mnist", "train", None) in asked


def test_curves_at_another_seed_or_grid_are_computed_anew(tmp_path, scorer, monkeypatch):
    kept, images = cache.Cache(tmp_path), small.images(3)
    monkeypatch.setattr(curves, "GRID", (0.1,))
    first = curves.follow(kept, "cifar10", scorer, "x", images).perturbed
    other_seed = dataclasses.replace(scorer, seed=7)
    assert np.abs(curves.follow(kept, "cifar10", other_seed, "x", images).perturbed - first).max()
    monkeypatch.setattr(curves, "GRID", (0.2,))
    assert np.abs(curves.follow(kept, "cifar10", scorer, "x", images).perturbed - first).max()


def test_holm_against_the_definition():
    assert tables._holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert tables._holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_larger_ood_images_are_cropped_and_averaged(monkeypatch):
    image = np.zeros((1, 16, 24, 3), np.uint8)
    image[:, :, 4:12] = 200  # the left half of the middle square
    monkeypatch.setattr(data, "load_images", lambda *a, **k: image)
    small_image = sets.load_ood("x", None, "celeb_a", (8, 8, 3), None)[0]
    assert small_image.shape == (8, 8, 3)
    assert (small_image[:, :4] == 200).all() and (small_image[:, 4:] == 0).all()
    with pytest.raises(InputError, match="has 3 channels; expected 1"):
        sets.load_ood("x", None, "celeb_a", (8, 8, 1), None)


def test_the_figures_show_every_pair(tmp_path):
    rng = np.random.default_rng(0)
    pair = [tables.Scores(rng.normal(0, 1, 40), rng.normal(1, 1, 50))]
    scores = {
        ("a", "b"): {"spem": pair, "likelihood": pair},
        ("b", "a"): {"spem": pair, "likelihood": pair},
    }
    pictures.heat_map(tmp_path / "heat_map.png", tables.rows(scores))
    pictures.roc_curves(tmp_path / "roc.png", scores)
    along = {(f, *p): [0.5] * len(curves.GRID) for f in curves.FORMS for p in scores}
    chosen = {(f, name): curves.GRID[2] for f in curves.FORMS for name in ("a", "b")}
    pictures.strength_curves(tmp_path / "curves.png", along, chosen)
    for name in ("heat_map.png", "roc.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_shipped_further_flows_stand_beside_the_shipped_flow_alone(monkeypatch):
    monkeypatch.setattr(benchmark.flows, "shipped", lambda: ["cifar10_background"])
    monkeypatch.setattr(benchmark.flows, "load", lambda path: path)

    def found(kind, *words):
        return benchmark.further(benchmark.build_parser().parse_args(words), kind, "cifar10")

    assert found("background") == ["cifar10_background"] and found("member") == []
    assert found("background", "--scorer", "cifar10=mine") == []
    assert found("background", "--scorer", "svhn_cropped=mine") == ["cifar10_background"]
    assert found("background", "--background", "cifar10=a", "--background", "mnist=b") == ["a"]
    assert found("member", "--member", "cifar10=c", "--scorer", "cifar10=mine") == ["c"]
