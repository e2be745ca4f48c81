import jax
import numpy as np
import pytest
import scipy.stats
from sklearn.covariance import LedoitWolf

from ecood import baselines, memory
from ecood.baselines.gaussian import fit_shrunk_gaussian, negative_log_density
from ecood.detector import scores
from tests import small
from tests.baselines import tiny

KEY = jax.random.key(0)


@pytest.mark.parametrize(("n", "d"), [(200, 3), (40, 60), (5, 20)])
def test_the_shrunk_gaussian_is_scikit_learns(n, d):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    known = LedoitWolf().fit(values)
    normal = scipy.stats.multivariate_normal(known.location_, known.covariance_)
    others = rng.normal(size=(20, d)) * 3
    found = negative_log_density(fit_shrunk_gaussian(values), np.float32(others))
    np.testing.assert_allclose(found, -normal.logpdf(others), rtol=1e-4)


def test_embeddings_that_do_not_vary_can_be_fitted():
    gaussian = fit_shrunk_gaussian(np.ones((5, 4)))
    near, far = negative_log_density(gaussian, np.float32([[1, 1, 1, 1], [1, 1, 1, 1.1]]))
    assert np.isfinite(near) and np.isfinite(far) and far > near


def test_the_score_ranks_as_the_mahalanobis_distance_of_embeddings():
    encoder, split = small.encoder(channels=1), tiny.split(400)
    images = np.concatenate([tiny.images(20, 1), tiny.hard_images()])
    bank, given = (np.float64(memory.build(encoder, x)) for x in (split.train, images))
    distance = LedoitWolf().fit(bank).mahalanobis(given)
    detector = baselines.embedding_gaussian(encoder)
    found = scores(detector, detector.fit(KEY, split), KEY, images)
    np.testing.assert_allclose(found - found[0], (distance - distance[0]) / 2, rtol=1e-3, atol=1e-2)
