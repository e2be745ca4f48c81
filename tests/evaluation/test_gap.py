import numpy as np
import pytest

from ecood.evaluation import gap
from ecood.perturb import noise_scale
from tests.evaluation import looks

STRENGTHS = np.concatenate([[0.0], np.geomspace(0.003, 10.0, 15)])


@pytest.fixture(scope="module")
def curve():
    return gap.over_lambda(*looks.seen(STRENGTHS), looks.DIM)


def test_on_a_gaussian_the_expansion_is_the_measured_gap(curve):
    assert curve.measured[0] < 0
    moderate = STRENGTHS < 0.2  # where no image costs more than 8 bits/dim
    assert curve.measured[moderate].max() > curve.measured[0] + 0.05
    np.testing.assert_allclose(curve.measured[moderate], curve.expansion[moderate], atol=0.03)
    assert (curve.known <= curve.estimated + 1e-9).all()
    assert (curve.known[moderate] <= curve.measured[moderate]).all()


def test_the_certificates_do_not_depend_on_the_size_of_the_bank(curve):
    """The noise scale is no function of the nearest bank item."""
    other = gap.over_lambda(*looks.seen(STRENGTHS, copies=20), looks.DIM)
    np.testing.assert_allclose(other.known, curve.known, rtol=1e-5)
    np.testing.assert_allclose(other.estimated, curve.estimated, rtol=1e-5)


def test_the_noise_scale_has_fewer_float32_values_than_it_is_charged_for():
    rng = np.random.default_rng(0)
    either = np.exp2(rng.uniform(-40, 0, 100_000)) * rng.choice([-1, 1], 100_000)
    similarity = np.concatenate([either, 1 - np.abs(either), [-1, 0, 1]]).astype(np.float32)
    dissimilarity = np.asarray(noise_scale(similarity, 1.0))
    assert dissimilarity.dtype == np.float32
    steps = dissimilarity.astype(float) * 2**24
    assert (steps == np.round(steps)).all() and steps.min() == 0 and steps.max() == 2**25
    assert (steps[steps > 2**24] % 2 == 0).all()
    # One for 0 and each step up to 1, and one for each second step from there to 2.
    assert np.log(1 + 2**24 + 2**23) <= gap.SCALE_ENTROPY
