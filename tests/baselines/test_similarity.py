import jax
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from ecood import baselines, encoders
from ecood.detector import scores
from ecood.errors import InputError
from tests.baselines import tiny

KEY = jax.random.key(0)


@pytest.mark.parametrize("k", [1, 5, 10, 50, 1000])
def test_the_mean_cosine_of_the_nearest_is_scikit_learns(k):
    split, images = tiny.split(200), np.concatenate([tiny.images(9, 1), tiny.hard_images()[2:]])
    bank, given = (
        np.float64(x).reshape(len(x), -1) - x.mean((1, 2, 3))[:, None]
        for x in (split.train, images)
    )
    nearest = NearestNeighbors(n_neighbors=min(k, len(bank)), metric="cosine").fit(bank)
    distance, _ = nearest.kneighbors(given)
    detector = baselines.similarity(encoders.pixels(), neighbours=k)
    found = scores(detector, detector.fit(KEY, split), KEY, images)
    np.testing.assert_allclose(found, distance.mean(axis=1) - 1, atol=1e-5)


def test_no_neighbours_are_refused():
    with pytest.raises(InputError, match="neighbours is 0; expected a whole number, 1 or more"):
        baselines.similarity(encoders.pixels(), neighbours=0)
