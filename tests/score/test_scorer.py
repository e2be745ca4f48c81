"""The door: a fitted scorer takes images, says what it saw, and refuses what it cannot take."""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows, statistics
from ecood.detector import detections
from ecood.errors import InputError
from ecood.score.forms import PAPER, RECOMMENDED
from tests import small


@pytest.fixture(scope="module")
def scorer():
    return ecood.score.fit(small.gaussian(), small.encoder(), small.images(80))


def test_the_whole_way_is_there_to_see(scorer):
    images = small.images(5, seed=1)
    detection, score = scorer.detect(images), scorer(images)
    assert score.shape == (5,) and score.dtype == np.float32
    np.testing.assert_allclose(detection.score, score, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(score, scorer(images))
    np.testing.assert_allclose(
        detection.noise_scale,
        float(scorer.state.noise_strength) * (1 - detection.similarity),
        rtol=1e-5,
    )
    assert scorer.flow is scorer.state.flow and scorer.encoder is scorer.state.encoder


def test_its_identity_is_all_that_decides_its_scores(scorer):
    state = scorer.state
    others = {
        "flow": state.flow.replace(density=small.blank_flow().density),
        "encoder": small.encoder(seed=4),
        "bank": jax.tree.map(lambda leaf: leaf[:-1], state.bank),
        "noise_strength": state.noise_strength + 1,
        "reference": statistics.Reference(*(part + 1 for part in state.reference)),
        "draws": statistics.Draws(2),
        "form": PAPER,
        "neighbours": 2,
        "aim": jax.tree_util.Partial(lambda key, images, s: s),
    }
    assert set(others) == {field.name for field in dataclasses.fields(state)}
    made = [dataclasses.replace(scorer, state=state.replace(**{n: x})) for n, x in others.items()]
    made += [scorer, dataclasses.replace(scorer, seed=7)]
    assert len({each.identity for each in made}) == len(made)
    assert scorer.identity == dataclasses.replace(scorer, calibration=np.zeros(1)).identity


def test_your_own_functions_are_known_by_their_names_in_every_process(scorer):
    def density(variables, key, x):
        return x.sum((1, 2, 3))

    def identity(function):
        flow = scorer.flow.replace(density=function)
        return dataclasses.replace(scorer, state=scorer.state.replace(flow=flow)).identity

    again = types.FunctionType(density.__code__, density.__globals__)
    again.__qualname__ = density.__qualname__
    assert repr(again) != repr(density)
    assert identity(again) == identity(density) != scorer.identity


def test_progress_adds_up_to_the_images(scorer):
    seen = []
    scorer(small.images(70, seed=1), progress=seen.append)
    assert sum(seen) == 70


def test_another_strength_and_another_calibration_compile_nothing_new(scorer):
    images = small.images(5, seed=1)
    first = scorer(images)
    with small.programs() as made:
        moved = scorer.with_noise_strength(5.0)
        assert np.abs(moved(images) - first).max() > 0
        calibrated = moved.calibrate(small.images(30, seed=2))
        calibrated.p_value(images)
        calibrated.is_ood(images)
    assert made == []
    assert float(moved.state.noise_strength) == 5.0
    assert calibrated.with_noise_strength(1.0).calibration is None
    with pytest.raises(InputError, match="noise_strength is -1; expected a finite number >= 0"):
        scorer.with_noise_strength(-1)
    for wrong in (True, "0.3", np.nan):
        with pytest.raises(InputError, match="expected a finite number >= 0, or 'auto'"):
            scorer.with_noise_strength(wrong)
    with pytest.raises(InputError, match="noise_strength is 'auto', which `fit` chooses"):
        scorer.with_noise_strength("auto")


def test_without_calibration_there_are_no_thresholds(scorer):
    for ask in (scorer.threshold, lambda: scorer.p_value(small.images(3))):
        with pytest.raises(InputError, match="this scorer is not calibrated"):
            ask()


@pytest.mark.parametrize("gain", [True, False])
def test_its_detector_is_the_same_detector(gain):
    images, key = small.images(64, seed=1), jax.random.key(0)
    options = {"noise_strength": 0.3, "gain": gain, "draws": 2, "antithetic": True}
    split = small.split(80)
    scorer = ecood.score.fit(small.gaussian(), small.encoder(), split, **options)
    detector = scorer.detector
    again = detector.fit(key, split)
    assert again.form == scorer.state.form == (RECOMMENDED if gain else PAPER)
    assert again.draws == scorer.state.draws
    found = detections(detector, again, key, images)
    for ours, theirs in zip(found, scorer.detect(images), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_an_images_noise_depends_on_the_seed():
    split, images = small.split(80), small.images(9, seed=1)
    options = {"noise_strength": 0.5, "gain": False}
    one, again, other = (
        ecood.score.fit(small.gaussian(), small.encoder(), split, seed=seed, **options)(images)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.all(one != other)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 1), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.full((2, 8, 8, 3), np.nan),
        np.zeros((2, 8, 8, 3), np.float32),
    ],
)
def test_wrong_images_never_reach_the_program(scorer, images):
    for take in (scorer, scorer.detect, scorer.calibrate):
        with pytest.raises(InputError, match="images"):
            take(images)


def test_one_held_out_image_has_no_scale():
    flow, encoder = small.gaussian(), encoders.pixels()
    with pytest.raises(InputError, match="1 held-out .* has no scale; expected at least 2"):
        ecood.score.fit(flow, encoder, small.images(39))
    scorer = ecood.score.fit(flow, encoder, small.images(40), noise_strength=0.1)
    assert len(np.unique(scorer(small.images(20, seed=1)))) == 20


def density(result):
    return flows.Flow(lambda variables, key, x: result(x), {})


def test_what_is_no_flow_or_no_encoder_is_refused():
    flow, encoder = small.gaussian(), encoders.pixels()
    with pytest.raises(InputError, match="the flow is of the type Encoder; expected Flow: flows"):
        ecood.score.fit(encoder, flow, small.images(40))
    with pytest.raises(InputError, match="the encoder is of the type function; expected Encoder:"):
        ecood.score.fit(flow, lambda images: images, small.images(40))


def of_five_channels(images):
    """flax's own error for images of another number of channels."""
    kernel = jnp.zeros((5, 2))
    return nn.Dense(2).apply({"params": {"kernel": kernel, "bias": kernel[0]}}, images / 255)


@pytest.mark.parametrize(
    ("flow", "encoder", "words"),
    [
        (density(lambda x: x), None, r"the flow gives float32 \[2, 8, 8, 3\]; expected log_prob"),
        (density(lambda x: 3.0), None, r"the flow gives .*; expected log_prob"),
        (
            flows.Flow(lambda v, x: x, {}),
            None,
            r"the flow cannot be called \(.*; expected log_prob",
        ),
        (
            None,
            lambda x: x[:, 0, 0, 0] / 255,
            r"the encoder .* gives float32 \[2\]; expected embed",
        ),
        (None, lambda x: x.mean((1, 2, 3))[:, None], r"gives float32 \[2, 1\]; .* d at least 2"),
        (None, of_five_channels, r"the encoder mine cannot be called \(.*\); expected embed"),
        (None, lambda x: x.nothing, None),
    ],
)
def test_functions_of_another_form_are_refused(flow, encoder, words):
    encoder = encoders.pixels() if encoder is None else encoders.encoder(encoder, name="mine")
    with pytest.raises(InputError if words else AttributeError, match=words):
        ecood.score.fit(flow or small.gaussian(), encoder, small.images(40))


NOWHERE = density(lambda x: jnp.where(jnp.max(x, (1, 2, 3)) < 0.01, -jnp.inf, 0.0))
LOST = encoders.encoder(
    lambda x: (lambda f: (f - f.mean(1, keepdims=True)) / f.std(1, keepdims=True))(
        x.reshape(x.shape[0], -1).astype(jnp.float32)
    ),
    name="standardised",
)


@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize(
    ("flow", "encoder", "draws"),
    [(NOWHERE, encoders.pixels(), 2), (NOWHERE, encoders.pixels(), 4), (small.gaussian(), LOST, 1)],
)
def test_an_image_of_no_density_or_no_embedding_is_ood(flow, encoder, draws, gain):
    options = {"noise_strength": 1e-4, "draws": draws, "gain": gain}
    fitted = ecood.score.fit(flow, encoder, small.images(80), **options)
    fitted = fitted.calibrate(small.images(60, seed=1))
    images = np.concatenate([small.images(63, seed=2), np.zeros((1, 8, 8, 3), np.uint8)])
    scores = fitted(images)
    assert np.isfinite(scores).all() and scores[-1] == scores.max()
    assert fitted.is_ood(images, fpr=0.1)[-1]
    assert fitted.p_value(images)[-1] == pytest.approx(1 / 61)


@pytest.mark.slow
def test_under_x64_the_scores_are_the_same(tmp_path):
    images = small.images(5, seed=1)
    fitted = ecood.score.fit(
        small.blank_flow(), small.encoder(), small.images(60), noise_strength=0.1
    )
    fitted.save(tmp_path / "scorer")
    expected = fitted(images)
    with jax.enable_x64(True):
        found = ecood.score.load(tmp_path / "scorer")(images)
        module = flows.Glow(small.SHAPE, depth=1, levels=1, width=4)
        x = jax.ShapeDtypeStruct(images.shape, jnp.float32)
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
