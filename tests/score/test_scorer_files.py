"""A scorer's directory: saved whole, read the same, refused if damaged, and those of ecood 0.1."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import pathlib
import pickle
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows, memory, weights
from ecood.errors import InputError
from ecood.splits import remember
from tests import small

DATA = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def scorer():
    flow = small.blank_flow().replace(trained_on=remember(small.images(5, seed=7)))
    fitted = ecood.score.fit(flow, small.encoder(), small.images(80), noise_strength=0.1)
    return fitted.calibrate(small.images(30, seed=2))


@pytest.fixture
def saved(scorer, tmp_path):
    scorer.save(tmp_path / "scorer")
    return tmp_path / "scorer"


def test_a_saved_scorer_is_the_same_and_compiles_nothing_anew(scorer, saved):
    images = small.images(70, seed=1)
    expected = scorer(images)
    again = ecood.score.load(saved)
    with small.programs() as made:
        np.testing.assert_array_equal(again(images), expected)
    assert made == []
    assert again.state.form == scorer.state.form and again.state.draws == scorer.state.draws
    assert float(again.state.noise_strength) == float(scorer.state.noise_strength)
    for field in ("centre", "spread"):
        pair = (getattr(s.state.reference, field) for s in (again, scorer))
        np.testing.assert_array_equal(*pair)
    np.testing.assert_array_equal(again.calibration, scorer.calibration)
    np.testing.assert_array_equal(again.fitted_on, scorer.fitted_on)
    np.testing.assert_array_equal(again.flow.trained_on, scorer.flow.trained_on)
    assert again.unknown == scorer.unknown == ["encoder"]
    assert again.image_shape == scorer.image_shape and again.seed == scorer.seed


def test_a_reloaded_scorer_still_knows_what_it_was_made_from(saved):
    again = ecood.score.load(saved)
    for images, words in (
        (small.images(5, seed=7), "5 of 5 images were used to train the flow"),
        (small.images(80)[:1], "1 of 1 images were used for the memory bank"),
    ):
        with pytest.raises(InputError, match=words):
            again.calibrate(images)


def test_saving_again_replaces_and_saving_over_something_else_is_refused(scorer, saved, tmp_path):
    plain = dataclasses.replace(scorer, calibration=None, fitted_on=None)
    plain.save(saved)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["scorer"]
    assert sorted(p.name for p in saved.iterdir()) == [
        "bank.safetensors", "encoder.safetensors", "flow.safetensors", "scorer.json",
    ]  # fmt: skip
    assert ecood.score.load(saved).unknown == ["encoder", "bank"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no scorer"):
        scorer.save(tmp_path / "other")
    with pytest.raises(InputError, match="is a file"):
        scorer.save(tmp_path / "other" / "thesis.tex")
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_functions_cannot_be_saved_and_leave_nothing(tmp_path):
    options = {"noise_strength": 0.1, "gain": False}
    own = ecood.score.fit(small.gaussian(), small.encoder(), small.images(40), **options)
    with pytest.raises(InputError, match="this flow is a plain function"):
        own.save(tmp_path / "own")
    mine = encoders.encoder(lambda x: x.reshape(len(x), -1).astype("float32"), name="mine")
    own = ecood.score.fit(small.blank_flow(), mine, small.images(40), **options)
    with pytest.raises(InputError, match="the encoder mine is your own"):
        own.save(tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="there is no scorer 'nonesuch'.*fashion_mnist"):
        ecood.score.load("nonesuch")


def test_numbers_of_numpy_can_be_saved(scorer, tmp_path):
    draws = dataclasses.replace(scorer.state.draws, count=np.int64(2), antithetic=np.bool_(True))
    state = scorer.state.replace(draws=draws)
    dataclasses.replace(scorer, state=state, seed=np.int64(3)).save(tmp_path / "scorer")
    again = ecood.score.load(tmp_path / "scorer")
    assert (again.seed, again.state.draws.count, again.state.draws.antithetic) == (3, 2, True)


def edit(directory, **changes):
    path = directory / "scorer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def copy(directory, source, target):
    shutil.copy(directory / source, directory / target)


def swap_encoder(directory):
    encoders.save(directory / "encoder.safetensors", small.encoder(seed=9))


def another_width(directory):
    tree, metadata = weights.load(directory / "flow.safetensors")
    architecture = json.loads(metadata["architecture"])
    architecture["attributes"]["width"] = 16
    metadata = {"architecture": json.dumps(architecture)}
    weights.save(directory / "flow.safetensors", tree, metadata)


def parts(**changes):
    whole = {"centre": [0, 0, 0], "spread": [1, 1, 1]} | changes
    return {name: part for name, part in whole.items() if part is not None}


NAN = float("nan")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda d: (d / "scorer.json").unlink(), "holds no scorer.json"),
        (lambda d: (d / "scorer.json").write_text("{"), "scorer.json is damaged"),
        (lambda d: (d / "scorer.json").write_text("[]"), "scorer.json is damaged"),
        (lambda d: edit(d, format=99), "has format 99, and this ecood .* up to 2; install"),
        (lambda d: edit(d, format="2"), "has format 2"),
        (lambda d: edit(d, draws=None), "lacks or misstates"),
        (lambda d: edit(d, noise_strength="much"), "lacks or misstates"),
        (lambda d: edit(d, noise_strength=-1.0), "lacks or misstates"),
        (lambda d: edit(d, draws=0), "lacks or misstates draws is 0"),
        (lambda d: edit(d, draws=3, antithetic=True), "lacks or misstates draws is 3"),
        (lambda d: edit(d, antithetic="false"), "lacks or misstates 'false'"),
        (lambda d: edit(d, image_shape=[8, 8]), "lacks or misstates"),
        (lambda d: edit(d, form="best"), "lacks or misstates 'best'"),
        (lambda d: edit(d, reference=parts(spread=[1, NAN, 1])), "misstates the reference"),
        (lambda d: edit(d, reference=parts(spread=[1, 1])), "misstates the reference"),
        (lambda d: edit(d, reference=parts(centre=None)), "lacks or misstates 'centre'"),
        (lambda d: edit(d, reference=None), "lacks or misstates"),
        (lambda d: edit(d, reference=[[0, 0, 0], [1, 1, 1]]), "lacks or misstates"),
        (lambda d: edit(d, seed=1), "calibration.safetensors was made for a scorer with other"),
        (lambda d: (d / "flow.safetensors").unlink(), "there is no weights file"),
        (lambda d: truncate(d / "flow.safetensors"), "is not a readable safetensors file"),
        (lambda d: truncate(d / "encoder.safetensors"), "is not a readable safetensors file"),
        (lambda d: truncate(d / "bank.safetensors"), "is not a readable safetensors file"),
        (lambda d: truncate(d / "images.safetensors"), "is not a readable safetensors file"),
        (
            lambda d: weights.save(d / "images.safetensors", {"fitted_on": np.ones(3)}),
            "images.safetensors holds no fingerprints; it is damaged",
        ),
        (lambda d: copy(d, "bank.safetensors", "images.safetensors"), "holds no fingerprints"),
        (swap_encoder, "was built by the encoder"),
        (another_width, r"do not match the model: params/.* has shape"),
        (
            lambda d: copy(d, "bank.safetensors", "encoder.safetensors"),
            "does not say which model it holds; .* Compact, DINOv2",
        ),
        (
            lambda d: copy(d, "bank.safetensors", "flow.safetensors"),
            "does not say which model it holds; .* Glow, ClassGlow, ResidualFlow",
        ),
        (
            lambda d: copy(d, "encoder.safetensors", "flow.safetensors"),
            "is of kind 'RandomFeatures'; this version of ecood knows Glow, ClassGlow, Res",
        ),
    ],
)
def test_a_damaged_directory_is_refused_in_one_sentence(saved, harm, words):
    harm(saved)
    with pytest.raises(InputError, match=words) as caught:
        ecood.score.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "scores", [np.ones((2, 2)), np.ones(0), np.array([1.0, np.nan]), None], ids=str
)
def test_a_calibration_that_is_none_is_refused(saved, scores):
    path = saved / "calibration.safetensors"
    metadata = weights.load(path)[1]
    weights.save(path, {} if scores is None else {"scores": np.float32(scores)}, metadata)
    with pytest.raises(InputError, match="holds no calibration; expected finite scores"):
        ecood.score.load(saved)


# What ecood 0.1 saved -----------------------------------------------------------------------------

FLAT = np.arange(0, 240, 80).repeat(64).reshape(3, 8, 8, 1)
IMAGES = np.uint8(np.concatenate([FLAT, np.arange(192).reshape(3, 8, 8, 1) * 37 % 256]))
OLD = {  # as ecood 0.1 scored IMAGES
    "scorer_0_1": {
        "score": [98.01812, 17.896847, 14.742198, 50.293655, 61.13115, 10.410165],
        "similarity": [0.0, 0.7763664, 0.7763664, 0.6434434, 0.4484564, 0.7081974],
        "noise_scale": [0.5, 0.1118168, 0.1118168, 0.1782783, 0.2757718, 0.1459013],
        "perturbed_bits": [9.730612, 8.05535, 7.638415, 8.678553, 8.640615, 8.266171],
        "bits": [9.229264, 7.943886, 7.554886, 8.334926, 8.281292, 8.249067],
        "p_value": [0.05, 0.15, 0.15, 0.05, 0.05, 0.15],
        "threshold": 22.768089,
    },
    "scorer_0_1_paper": {
        "score": [9.42916, 8.039274, 7.62996, 8.408502, 8.508698, 8.319521],
        "similarity": [0.0, 0.6531894, 0.6531894, 0.5547085, 0.3987407, 0.629357],
        "noise_scale": [0.25, 0.0867027, 0.0867027, 0.1113229, 0.1503148, 0.0926607],
        "perturbed_bits": [9.42916, 8.039274, 7.62996, 8.408502, 8.508698, 8.319521],
        "p_value": [0.05, 0.5, 1.0, 0.05, 0.05, 0.15],
        "threshold": 8.388532,
    },
}


@pytest.fixture(scope="module", params=OLD)
def old(request):
    return request.param, ecood.score.load(DATA / request.param)


def test_a_scorer_of_ecood_0_1_is_read_and_scores_the_same(old):
    name, scorer = old
    found = scorer.detect(IMAGES)._asdict() | {"p_value": scorer.p_value(IMAGES)}
    for field, expected in OLD[name].items():
        if field != "threshold":
            # The recommended form divides by the reference's ranges, here about 0.01.
            tolerance = 5e-3 if field == "score" else 2e-5
            np.testing.assert_allclose(found[field], expected, atol=tolerance, err_msg=field)
    assert scorer.threshold(0.1) == pytest.approx(OLD[name]["threshold"], rel=1e-6)
    assert scorer.image_shape == (8, 8, 1) and len(scorer.calibration) == 19
    assert scorer.unknown == ["flow", "encoder", "bank"]


def test_the_settings_of_ecood_0_1_are_kept(old):
    name, scorer = old
    state = scorer.state
    if name == "scorer_0_1":
        assert (state.form.name, state.draws.count, scorer.seed) == ("recommended", 1, 3)
        reference = [[8.21413, 0.009759, -0.914282], [0.054971, 0.008855, 0.02151]]
        np.testing.assert_allclose(state.reference, reference, rtol=1e-4)
    else:
        assert (state.form.name, state.draws.count, state.draws.antithetic) == ("paper", 2, True)
        assert isinstance(state.bank, memory.Compressed) and state.bank.bank.dtype == jnp.bfloat16


def test_it_is_saved_again_in_the_new_form(old, tmp_path):
    _, scorer = old
    scorer.save(tmp_path / "new")
    description = json.loads((tmp_path / "new" / "scorer.json").read_text())
    assert description["format"] == 2 and "usual" not in description
    again = ecood.score.load(tmp_path / "new")
    assert again.unknown == ["flow", "encoder", "bank"] and again.state.form == scorer.state.form
    np.testing.assert_array_equal(again.calibration, scorer.calibration)
    np.testing.assert_array_equal(again(IMAGES), scorer(IMAGES))


def test_it_can_be_calibrated_as_nothing_is_known_of_its_images(old):
    _, scorer = old
    fresh = small.images(25, seed=5, shape=(8, 8, 1))
    np.testing.assert_array_equal(scorer.calibrate(fresh).calibration, np.sort(scorer(fresh)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"usual": [[0, 0, 0], [1, NAN, 1]]}, "lacks or misstates the reference"),
        ({"usual": [[0, 0, 0]]}, "lacks or misstates"),
        ({"usual": 3}, "lacks or misstates"),
        ({"noise_strength": 0.4}, "was made for a scorer with other weights or settings"),
    ],
)
def test_a_damaged_one_of_ecood_0_1_is_refused_too(tmp_path, changes, words):
    shutil.copytree(DATA / "scorer_0_1", tmp_path / "old")
    edit(tmp_path / "old", **changes)
    with pytest.raises(InputError, match=words):
        ecood.score.load(tmp_path / "old")


def test_a_flow_and_an_encoder_of_ecood_0_1_are_read_alone():
    flow = flows.load(DATA / "scorer_0_1" / "flow.safetensors")
    assert flow.image_shape == (8, 8, 1) and flow.trained_on is None
    encoder = encoders.load(DATA / "scorer_0_1" / "encoder.safetensors")
    assert encoder.name == "random_features" and encoder.trained_on is None
    shapes = {leaf.shape for leaf in jax.tree.leaves(encoder.variables)}
    assert shapes == {(5, 5, 1, 8)}


PARTS = ("flow", "encoder", "bank", "images", "calibration")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Scorers that differ from `scorer` in their images, or in one part."""
    grey = (8, 8, 1)
    made = {
        "of grey images": (small.flow(shape=grey), small.encoder(channels=1), grey),
        "of larger images": (small.flow(shape=(12, 8, 3)), small.encoder(), (12, 8, 3)),
        "of another flow": (small.flow(), small.encoder(), small.SHAPE),
        "of another encoder": (small.blank_flow(), encoders.pixels(), small.SHAPE),
        "of another bank": (small.blank_flow(), small.encoder(), small.SHAPE),
    }
    root = tmp_path_factory.mktemp("others")
    for name, (flow, encoder, shape) in made.items():
        images = small.images(40, seed=5, shape=shape)
        other = ecood.score.fit(flow, encoder, images, noise_strength=0.1)
        other = dataclasses.replace(other, calibration=np.arange(9, dtype=np.float32))
        other.save(root / name)
    return root


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("part", PARTS)
def test_parts_that_do_not_belong_together_are_refused(saved, others, part, listed):
    """Also where scorer.json lists no files, as ecood 0.1 wrote it."""
    whole = {path.name: path.read_bytes() for path in saved.iterdir()}
    for other in others.iterdir():
        for path, content in ((saved / name, content) for name, content in whole.items()):
            path.write_bytes(content)
        if not listed:
            description = json.loads((saved / "scorer.json").read_text())
            del description["files"]
            (saved / "scorer.json").write_text(json.dumps(description))
        copy(other, f"{part}.safetensors", saved / f"{part}.safetensors")
        same = (other / f"{part}.safetensors").read_bytes() == whole[f"{part}.safetensors"]
        if same or (part == "images" and not listed):  # of which nothing else knows
            continue
        with pytest.raises(InputError) as caught:
            ecood.score.load(saved)
        assert "\n" not in str(caught.value)


def test_an_uncalibrated_one_of_ecood_0_1_with_parts_of_other_images(scorer, others, tmp_path):
    dataclasses.replace(scorer, calibration=None).save(tmp_path / "s")
    description = json.loads((tmp_path / "s" / "scorer.json").read_text())
    del description["files"]
    for part in ("flow", "encoder"):
        for name in ("of grey images", "of larger images"):
            scorer.save(tmp_path / "s")
            (tmp_path / "s" / "scorer.json").write_text(json.dumps(description))
            (tmp_path / "s" / "calibration.safetensors").unlink()
            copy(others / name, f"{part}.safetensors", tmp_path / "s" / f"{part}.safetensors")
            if (part, name) == ("encoder", "of larger images"):
                continue  # the same file
            with pytest.raises(InputError, match="not of images|built by the encoder"):
                ecood.score.load(tmp_path / "s")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_vanished_is_missed(saved, part):
    (saved / f"{part}.safetensors").unlink()
    with pytest.raises(InputError, match=rf"{part}\.safetensors( is missing|$)|no weights file"):
        ecood.score.load(saved)


def test_what_cannot_be_read_is_named(saved, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(saved / "scorer.json"))

    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    with pytest.raises(InputError, match=r"scorer\.json cannot be read \(Permission denied\)"):
        ecood.score.load(saved)


def test_a_reader_finds_a_scorer_while_another_process_writes_it(scorer, saved):
    stop = threading.Event()

    def write():
        while not stop.is_set():
            scorer.save(saved)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        try:
            for _ in range(20):
                assert len(ecood.score.load(saved).calibration) == 30
        finally:
            stop.set()
        writing.result()


def test_a_scorer_is_one_line_and_pickles(scorer):
    assert repr(scorer) == (
        "Scorer(images [8, 8, 3], Flow(Glow of images (8, 8, 3), 1,188 parameters), "
        "Encoder(random_features, 9,600 parameters), bank float32 [76, 512], lambda 0.1, "
        "calibrated on 30 images)"
    )
    images = small.images(9, seed=1)
    for gain in (True, False):
        fitted = (
            scorer
            if gain
            else ecood.score.fit(
                small.blank_flow(),
                encoders.pixels(),
                small.images(40),
                noise_strength=0.1,
                gain=False,
            )
        )
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted))(images), fitted(images))


def score_in_child(scorer, images, queue):
    try:
        queue.put(scorer(images))
    except InputError as error:
        queue.put(str(error))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_a_process_of_its_own_scores_and_a_fork_says_why_it_does_not(scorer, method):
    images = small.images(9, seed=1)
    expected, context = scorer(images), multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=score_in_child, args=(scorer, images, queue))
    child.start()
    found = queue.get(timeout=120)
    child.join()
    if method == "spawn":
        np.testing.assert_array_equal(found, expected)
    else:
        assert "was forked from one that had used JAX" in found and "get_context('spawn')" in found
