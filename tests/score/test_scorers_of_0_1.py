"""What ecood 0.1 saved is read, scores as it did, and is saved again in the new form."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows, memory
from ecood.errors import InputError
from tests import small

DATA = pathlib.Path(__file__).parent
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


@pytest.mark.slow
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
        ({"usual": [[0, 0, 0], [1, float("nan"), 1]]}, "lacks or misstates the reference"),
        ({"usual": [[0, 0, 0]]}, "lacks or misstates"),
        ({"usual": 3}, "lacks or misstates"),
        ({"noise_strength": 0.4}, "was made for a scorer with other weights or settings"),
    ],
)
def test_a_damaged_one_of_ecood_0_1_is_refused_too(tmp_path, changes, words):
    shutil.copytree(DATA / "scorer_0_1", tmp_path / "old")
    path = tmp_path / "old" / "scorer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=words):
        ecood.score.load(tmp_path / "old")


def test_a_flow_and_an_encoder_of_ecood_0_1_are_read_alone():
    flow = flows.load(DATA / "scorer_0_1" / "flow.safetensors")
    assert flow.image_shape == (8, 8, 1) and flow.trained_on is None
    encoder = encoders.load(DATA / "scorer_0_1" / "encoder.safetensors")
    assert encoder.name == "random_features" and encoder.trained_on is None
    shapes = {leaf.shape for leaf in jax.tree.leaves(encoder.variables)}
    assert shapes == {(5, 5, 1, 8)}
