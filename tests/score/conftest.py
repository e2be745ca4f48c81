"""A scorer and its directory, which the tests of files share."""

import pytest

import ecood.score
from ecood.splits import remember
from tests import small


@pytest.fixture(scope="module")
def scorer():
    flow = small.blank_flow().replace(trained_on=remember(small.images(5, seed=7)))
    fitted = ecood.score.fit(flow, small.encoder(), small.images(60), noise_strength=0.1)
    return fitted.calibrate(small.images(30, seed=2))


@pytest.fixture
def saved(scorer, tmp_path):
    scorer.save(tmp_path / "scorer")
    return tmp_path / "scorer"
