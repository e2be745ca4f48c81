import json

import jax
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows
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
