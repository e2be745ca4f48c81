import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows, memory
from ecood.batches import map_images
from ecood.errors import InputError
from tests import small


@pytest.fixture(scope="module")
def scorer():
    return ecood.score.fit(small.flow(), small.encoder(), small.images(80))


@pytest.fixture
def saved(scorer, tmp_path):
    scorer.save(tmp_path / "scorer")
    return tmp_path / "scorer"


def test_a_saved_scorer_scores_the_same(scorer, saved):
    images = small.images(70, seed=1)
    again = ecood.score.load(saved)
    np.testing.assert_array_equal(scorer(images), again(images))
    np.testing.assert_array_equal(scorer(images), again(images))
    assert scorer(images).dtype == np.float32
    assert float(again.state.noise_strength) == float(scorer.state.noise_strength)


def test_the_whole_way_is_there_to_see(scorer):
    detection = scorer.detect(small.images(5, seed=1))
    np.testing.assert_array_equal(detection.score, scorer(small.images(5, seed=1)))
    np.testing.assert_allclose(
        detection.noise_scale,
        float(scorer.state.noise_strength) * (1 - detection.similarity),
        rtol=1e-5,
    )


def test_another_strength_compiles_nothing_new(scorer):
    moved = scorer.with_noise_strength(5.0)
    assert moved._program is scorer._program
    assert np.abs(moved(small.images(5)) - scorer(small.images(5))).max() > 0


def test_its_detector_is_the_same_detector(scorer):
    images, key = small.images(64, seed=1), jax.random.key(0)
    scores = map_images(scorer.detector.score, scorer.state, key, images=images)
    np.testing.assert_allclose(scores, scorer(images), rtol=1e-4, atol=1e-3)


def test_saving_again_replaces_and_saving_over_something_else_is_refused(scorer, saved, tmp_path):
    scorer.save(saved)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["scorer"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no scorer"):
        scorer.save(tmp_path / "other")
    with pytest.raises(InputError, match="is a file"):
        scorer.save(tmp_path / "other" / "thesis.tex")
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_functions_cannot_be_saved_and_leave_nothing(scorer, tmp_path):
    plain = flows.Flow(lambda v, k, x: -(x**2).sum((1, 2, 3)), {})
    options = {"noise_strength": 0.1, "gain": False}
    own = ecood.score.fit(plain, small.encoder(), small.images(40), **options)
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


def _edit(saved, **changes):
    path = saved / "scorer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _swap_encoder(saved):
    encoders.save(saved / "encoder.safetensors", encoders.random_features(jax.random.key(9), 3))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda d: (d / "scorer.json").unlink(), "holds no scorer.json"),
        (lambda d: (d / "scorer.json").write_text("{"), "scorer.json is damaged"),
        (lambda d: _edit(d, format=99), "has format 99"),
        (lambda d: _edit(d, draws=None), "lacks or misstates"),
        (lambda d: _edit(d, noise_strength="much"), "lacks or misstates"),
        (lambda d: _edit(d, noise_strength=-1.0), "lacks or misstates"),
        (lambda d: _edit(d, draws=0), "lacks or misstates draws is 0"),
        (lambda d: _edit(d, draws=3, antithetic=True), "lacks or misstates draws is 3"),
        (lambda d: _edit(d, antithetic="false"), "lacks or misstates 'false'"),
        (lambda d: _edit(d, image_shape=[8, 8]), "lacks or misstates"),
        (lambda d: _edit(d, usual=[[0, 0, 0], [1, float("nan"), 1]]), "lacks or misstates usual"),
        (lambda d: (d / "flow.safetensors").unlink(), "there is no weights file"),
        (lambda d: _truncate(d / "flow.safetensors"), "is not a readable safetensors file"),
        (lambda d: _truncate(d / "encoder.safetensors"), "is not a readable safetensors file"),
        (lambda d: _truncate(d / "bank.safetensors"), "is not a readable safetensors file"),
        (_swap_encoder, "was built by the encoder"),
        (
            lambda d: (d / "encoder.safetensors").write_bytes(
                (d / "bank.safetensors").read_bytes()
            ),
            "does not say which encoder it holds",
        ),
        (
            lambda d: (d / "flow.safetensors").write_bytes((d / "bank.safetensors").read_bytes()),
            "does not say which flow it holds",
        ),
    ],
)
def test_a_damaged_directory_is_refused_in_one_sentence(saved, harm, words):
    harm(saved)
    with pytest.raises(InputError, match=words) as caught:
        ecood.score.load(saved)
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused(saved):
    from ecood import weights

    tree, metadata = weights.load(saved / "flow.safetensors")
    architecture = json.loads(metadata["architecture"]) | {"width": 16}
    weights.save(saved / "flow.safetensors", tree, {"architecture": json.dumps(architecture)})
    with pytest.raises(InputError, match=r"do not match the model: params/.* has shape"):
        ecood.score.load(saved)


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
    with pytest.raises(InputError, match="images"):
        scorer(images)


def test_numbers_of_numpy_can_be_saved(tmp_path):
    fitted = ecood.score.fit(
        small.blank_flow(), encoders.pixels(), small.images(40), noise_strength=0.1,
        seed=np.int64(3), draws=np.int64(2), antithetic=np.bool_(True),
    )  # fmt: skip
    fitted.save(tmp_path / "scorer")
    again = ecood.score.load(tmp_path / "scorer")
    assert (again.seed, again.draws, again.antithetic) == (3, 2, True)


def test_one_held_out_image_tells_nothing_usual():
    flow, encoder = small.gaussian(), encoders.pixels()
    with pytest.raises(InputError, match="1 held-out .* at least 2, so 40 images"):
        ecood.score.fit(flow, encoder, small.images(39))
    scorer = ecood.score.fit(flow, encoder, small.images(40), noise_strength=0.1)
    assert len(np.unique(scorer(small.images(20, seed=1)))) == 20


def _density(result):
    return flows.Flow(lambda variables, key, x: result(x), {})


@pytest.mark.parametrize(
    ("flow", "encoder", "words"),
    [
        (_density(lambda x: x), None, r"the flow gives float32 \[2, 8, 8, 3\]; expected log_prob"),
        (_density(lambda x: 3.0), None, r"the flow gives .*; expected log_prob"),
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
        (None, lambda x: x.nothing, None),
    ],
)
def test_functions_of_another_form_are_refused(flow, encoder, words):
    encoder = encoders.pixels() if encoder is None else encoders.encoder(encoder, name="mine")
    with pytest.raises(InputError if words else AttributeError, match=words):
        ecood.score.fit(flow or small.gaussian(), encoder, small.images(40))


NOWHERE = flows.Flow(lambda v, k, x: jnp.where(jnp.max(x, (1, 2, 3)) < 0.01, -jnp.inf, 0.0), {})
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
    fitted = ecood.score.fit(
        flow, encoder, small.images(80), noise_strength=1e-4, draws=draws, gain=gain
    ).calibrate(small.images(60, seed=1))
    images = np.concatenate([small.images(63, seed=2), np.zeros((1, 8, 8, 3), np.uint8)])
    scores = fitted(images)
    assert np.isfinite(scores).all() and scores[-1] == scores.max()
    assert fitted.is_ood(images, fpr=0.1)[-1]
    assert fitted.p_value(images)[-1] == pytest.approx(1 / 61)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_images_of_the_bank_calibrate_nothing_however_it_is_stored(scorer, dtype):
    bank = memory.compress(scorer.state.bank, dtype=dtype).bank
    stored = dataclasses.replace(scorer, state=scorer.state._replace(bank=bank))
    with pytest.raises(InputError, match="76 of 76 calibration images are in the memory bank"):
        stored.calibrate(small.images(80)[:76])
    calibration = stored.calibrate(small.images(60, seed=1)).calibration
    assert calibration.shape == (60,) and calibration.dtype == np.float32


def test_under_x64_the_scores_are_the_same(scorer, saved):
    images = small.images(5, seed=1)
    expected = scorer(images)
    with jax.enable_x64(True):
        again = ecood.score.load(saved)
        found = again(images)
        module = flows.Glow(small.SHAPE, depth=1, levels=1, width=4)
        variables = module.init(jax.random.key(0), jnp.float32(images) / 256)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
