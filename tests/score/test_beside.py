"""Embeddings that are computed elsewhere come beside the images; nothing else changes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import cli, encoders
from ecood.batches import map_images
from ecood.cli import score as command
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.score import Embeddings, turned
from tests import small

SPLIT = small.split(80, calibration=0.2)
WIDTH = 512


def embed(images):
    """What a service that ecood does not run would give."""
    return map_images(Encoder.embed, small.encoder(), images=images)


EMBEDDINGS = Embeddings(*map(embed, SPLIT), embed(turned(SPLIT.held_out)))


@pytest.fixture(scope="module")
def expected():
    return ecood.score.fit(small.gaussian(), small.encoder(), SPLIT)


@pytest.fixture(scope="module")
def scorer():
    outside = encoders.elsewhere(WIDTH, name="random_features")
    return ecood.score.fit(small.gaussian(), outside, SPLIT, embeddings=EMBEDDINGS)


def close(found, wanted):
    for name, value in found._asdict().items():
        scale = np.abs(getattr(wanted, name)).max()
        np.testing.assert_allclose(value, getattr(wanted, name), atol=1e-4 * scale, err_msg=name)


def test_it_is_the_scorer_whose_encoder_runs_here(scorer, expected):
    images = small.images(70, seed=1)
    rows = embed(images)
    assert float(scorer.state.noise_strength) == float(expected.state.noise_strength)
    np.testing.assert_allclose(scorer.calibration, expected.calibration, rtol=1e-3)
    close(scorer.detect(images, embeddings=rows), expected.detect(images))
    np.testing.assert_allclose(
        scorer.p_value(images, embeddings=rows), expected.p_value(images), atol=1 / 13 + 1e-6
    )
    explained = scorer.explain(images[:5], embeddings=rows[:5])
    np.testing.assert_array_equal(
        explained.neighbours[:, 0], expected.explain(images[:5]).neighbours[:, 0]
    )
    assert scorer.is_ood(images, 0.1, embeddings=rows).shape == (70,)
    assert scorer.drift(images, embeddings=rows).n == 70


def test_another_number_of_images_compiles_nothing_anew(scorer):
    images = small.images(70, seed=1)
    scorer(images, embeddings=embed(images))
    rows = embed(images[:9])
    with small.programs() as made:
        scorer(images[:9], embeddings=rows)
    assert made == []


def test_any_scorer_takes_embeddings_that_are_known_already(expected):
    images = small.images(9, seed=1)
    close(expected.detect(images, embeddings=embed(images)), expected.detect(images))


def test_it_is_saved_and_read(tmp_path):
    outside, known = encoders.elsewhere(WIDTH, name="mine"), EMBEDDINGS._replace(turned=None)
    options = {"noise_strength": 0.3, "embeddings": known}
    scorer = ecood.score.fit(small.blank_flow(), outside, SPLIT, **options)
    scorer.save(tmp_path / "scorer")
    again = ecood.score.load(tmp_path / "scorer")
    images = small.images(9, seed=1)
    rows = embed(images)
    np.testing.assert_array_equal(again(images, embeddings=rows), scorer(images, embeddings=rows))
    with pytest.raises(InputError, match=r"embeddings are computed elsewhere; .* float \[N, 512\]"):
        again(images)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    options = {"noise_strength": 0.3, "embeddings": EMBEDDINGS._replace(turned=None)}
    outside = encoders.elsewhere(WIDTH, name="mine")
    scorer = ecood.score.fit(small.blank_flow(), outside, SPLIT, **options)
    scorer.save(folder / "scorer")
    images = small.images(40, seed=1)
    np.save(folder / "images.npy", images)
    np.save(folder / "embeddings.npy", embed(images))
    return folder, scorer(images, embeddings=embed(images))


def run(folder, *words):
    options = [str(word).replace("HERE", str(folder)) for word in words]
    return cli.main(["score", *options, "--scorer", str(folder / "scorer")])


def test_the_command_line_takes_them_from_a_file(saved, capsys, monkeypatch):
    folder, expected = saved
    monkeypatch.setattr(command, "CHUNK", 16)
    assert run(folder, "HERE/images.npy", "--embeddings", "HERE/embeddings.npy") == 0
    found = [line.split(",")[2] for line in capsys.readouterr().out.splitlines()[1:]]
    np.testing.assert_allclose(np.float32(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("HERE/images.npy",), "computed elsewhere; .* --embeddings of a command"),
        (
            ("HERE/images.npy",) * 2 + ("--embeddings", "HERE/few.npy"),
            "goes with one .npy or .npz file",
        ),
        (("HERE/images.npy", "--embeddings", "HERE/none.npy"), "cannot be read as embeddings"),
        (("HERE/images.npy", "--embeddings", "HERE/more.npz"), "cannot be read as embeddings"),
        (("HERE/images.npy", "--embeddings", "HERE/images.npy"), r"has the shape \[40, 8, 8, 3\]"),
        (("HERE/images.npy", "--embeddings", "HERE/few.npy"), "row for each of the 40 images"),
        (("HERE/images.npy", "--embeddings", "HERE/thin.npy"), r"expected floats \[40, 512\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(saved, capsys, words, told):
    folder, _ = saved
    np.savez(folder / "more.npz", ROWS)
    np.save(folder / "few.npy", np.ones((3, WIDTH), np.float32))
    np.save(folder / "thin.npy", np.ones((40, 3), np.float32))
    assert run(folder, *words) == 2
    assert re.search(told, capsys.readouterr().err.splitlines()[-1])


def test_copies_count_once_in_a_calibration_with_their_embeddings(scorer):
    images, rows = small.images(5, seed=3), np.random.default_rng(0).normal(size=(5, WIDTH))
    twice = [np.repeat(each, 2, axis=0) for each in (images, rows)]
    copied, alone = (scorer.calibrate(i, embeddings=r) for i, r in (twice, (images, rows)))
    np.testing.assert_allclose(copied.calibration, alone.calibration, rtol=1e-5)


def test_what_needs_the_encoder_itself_says_so(scorer, tmp_path):
    with pytest.raises(InputError, match="its encoder random_features runs elsewhere"):
        scorer.export(tmp_path / "scorer.npz")
    with pytest.raises(InputError, match="embeddings are computed elsewhere"):
        scorer.calibrate(small.images(20, seed=3))
    detector = ecood.score.similarity(scorer.encoder)
    with pytest.raises(InputError, match="embeddings are computed elsewhere"):
        detector.fit(jax.random.key(0), SPLIT)
    with pytest.raises(InputError, match="embeddings are computed elsewhere"):
        ecood.score.fit(small.gaussian(), scorer.encoder, SPLIT)


IMAGES = small.images(3, seed=1)
ROWS = np.ones((3, WIDTH), np.float32)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ROWS[:2], r"embeddings of 3 images are float32 \[2, 512\]; expected floats \[3, 512\]"),
        (ROWS[:, :9], r"float32 \[3, 9\]"),
        (ROWS.astype(int), r"are int64 \[3, 512\]"),
        (ROWS * np.array([[1], [np.nan], [np.inf]]), "of 2 of 3 images are NaN, infinite or"),
        (np.float64(ROWS) * [[1], [1e300], [-1e39]], "of 2 of 3 images are .* beyond float32"),
        (["a", "b", "c"], "expected floats"),
    ],
)
def test_embeddings_that_are_none_are_refused(scorer, rows, words):
    with pytest.raises(InputError, match=words):
        scorer(IMAGES, embeddings=rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"turned": None}, "chosen on turned images, of which no embeddings were given"),
        ({"train": EMBEDDINGS.train[:5]}, "the embeddings of .* train images are float32"),
        ({"held_out": EMBEDDINGS.held_out * np.nan}, "held_out images are NaN"),
        ({"calibration": EMBEDDINGS.calibration[:, :3]}, "calibration images are float32"),
    ],
)
def test_embeddings_that_do_not_fit_the_split_are_refused(changes, words):
    known = EMBEDDINGS._replace(**changes)
    outside = encoders.elsewhere(WIDTH, name="mine")
    with pytest.raises(InputError, match=words):
        ecood.score.fit(small.gaussian(), outside, SPLIT, embeddings=known)


def test_a_split_is_needed_to_tell_which_embeddings_are_which():
    outside = encoders.elsewhere(WIDTH, name="mine")
    with pytest.raises(InputError, match="Split is expected"):
        ecood.score.fit(small.gaussian(), outside, SPLIT.train, embeddings=EMBEDDINGS)
    with pytest.raises(InputError, match="expected ecood.score.Embeddings"):
        ecood.score.fit(small.gaussian(), outside, SPLIT, embeddings=jnp.ones((3, 3)))


def test_a_given_strength_needs_no_embeddings_of_turned_images():
    known = EMBEDDINGS._replace(turned=None)
    outside = encoders.elsewhere(WIDTH, name="mine")
    options = {"noise_strength": 0.3, "embeddings": known}
    fitted = ecood.score.fit(small.gaussian(), outside, SPLIT, **options)
    np.testing.assert_allclose(fitted.state.noise_strength, 0.3)
