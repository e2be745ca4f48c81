"""A scorer's directory: saved whole, read the same, compiled no second time."""

import dataclasses

import jax
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows
from ecood.errors import InputError
from ecood.score import files
from tests import small


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
        (small.images(60)[:1], "1 of 1 image was used for the memory bank"),
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
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt, which is no part of a scorer"):
        scorer.save(saved)
    assert (saved / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["a\0b", "a" * 300])
def test_names_that_no_file_can_have_are_one_sentence(scorer, name):
    for use in (scorer.save, ecood.score.load, ecood.score.load_export, scorer.export):
        with pytest.raises(InputError):
            use(name)
    for load in (flows.load, encoders.load):
        with pytest.raises(InputError, match="there is no weights file"):
            load(name)


def test_neighbours_are_saved_and_are_the_detectors_too(scorer, tmp_path):
    state, images = scorer.state.replace(neighbours=5), small.images(20, seed=1)
    own = dataclasses.replace(scorer, state=state, calibration=None)
    own = own.calibrate(small.images(30, seed=2))
    own.save(tmp_path / "own")
    again = ecood.score.load(tmp_path / "own")
    assert again.state.neighbours == 5
    np.testing.assert_array_equal(again.p_value(images), own.p_value(images))
    np.testing.assert_array_equal(again(images), own(images))
    assert np.any(again(images) != scorer(images))
    key, split = jax.random.key(0), small.split(60)
    assert again.detector.fit(key, split).neighbours == 5


def test_controls_and_ablations_cannot_be_saved_and_leave_nothing(scorer, tmp_path):
    aim = ecood.score.constant(small.images(4), np.float32([0.5] * 4))
    for state in (
        scorer.state.replace(aim=aim),
        scorer.state.replace(form=ecood.score.ABLATIONS["without_gain"]),
    ):
        with pytest.raises(InputError, match="is a control or an ablation, which no directory"):
            dataclasses.replace(scorer, state=state).save(tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


def test_functions_cannot_be_saved_and_leave_nothing(tmp_path):
    with pytest.raises(InputError, match="this flow is a plain function"):
        small.scorer(small.gaussian(), small.encoder()).save(tmp_path / "own")
    mine = encoders.encoder(lambda x: x.reshape(len(x), -1).astype("float32"), name="mine")
    with pytest.raises(InputError, match="the encoder mine is your own"):
        small.scorer(small.blank_flow(), mine).save(tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_are_refused():
    for name in ("nonesuch", ""):
        with pytest.raises(InputError, match=f"there is no scorer '{name}'.*fashion_mnist"):
            ecood.score.load(name)


def test_a_file_is_no_scorers_directory(tmp_path):
    (tmp_path / "scorer.npz").write_bytes(b"")
    with pytest.raises(InputError, match="is a file; .* is read by ecood.score.load_export"):
        ecood.score.load(tmp_path / "scorer.npz")


def test_a_folder_of_images_does_not_hide_the_shipped_scorer_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "fashion_mnist" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert files.locate("fashion_mnist") == files.PRETRAINED / "fashion_mnist"
    assert flows.load("fashion_mnist").image_shape == (28, 28, 1)
    (tmp_path / "fashion_mnist" / "scorer.json").write_text("{}")
    assert files.locate("fashion_mnist").resolve() == tmp_path / "fashion_mnist"


def test_a_scorer_is_equal_to_itself_alone_and_no_argument_of_a_program(scorer, saved):
    again = ecood.score.load(saved)
    assert {scorer, again, scorer} == {scorer, again} and scorer != again
    with pytest.raises(InputError, match="images is a .*Tracer that numpy cannot read"):
        jax.jit(scorer)(small.images(2))


def test_numbers_of_numpy_can_be_saved(scorer, tmp_path):
    draws = dataclasses.replace(scorer.state.draws, count=np.int64(2), antithetic=np.bool_(True))
    state = scorer.state.replace(draws=draws)
    dataclasses.replace(scorer, state=state, seed=np.int64(3)).save(tmp_path / "scorer")
    again = ecood.score.load(tmp_path / "scorer")
    assert (again.seed, again.state.draws.count, again.state.draws.antithetic) == (3, 2, True)
