import jax
import numpy as np
import pytest
import scipy.stats

from ecood import baselines, encoders
from ecood.baselines.gaussian import fit_gaussian, negative_log_density
from ecood.detector import detections
from ecood.errors import InputError
from tests.baselines import tiny


def test_negative_log_density_of_likelihood_and_similarity():
    flow, key = tiny.gaussian(), jax.random.key(2)
    split, images = tiny.split(400), tiny.images(9, seed=1)

    def statistics(images):
        bank, given = (
            (x.reshape(len(x), -1) - x.mean((1, 2, 3))[:, None]) for x in (split.train, images)
        )
        similarity = np.corrcoef(given, bank)[: len(given), len(given) :].max(axis=1)
        return np.stack([tiny.known_statistics(key, images)[:, 0], similarity], axis=1)

    fitted = statistics(split.held_out)
    normal = scipy.stats.multivariate_normal(fitted.mean(0), np.cov(fitted, rowvar=False))
    detector = baselines.two_sided(flow, encoders.pixels())
    found = detections(detector, detector.fit(key, split), key, images)
    known = statistics(images)
    np.testing.assert_allclose(found.score, -normal.logpdf(known), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(np.stack(found[1:], axis=1), known, rtol=1e-4, atol=1e-4)


def test_gaussian_is_scipys():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3)) + [1, -200, 3]
    normal = scipy.stats.multivariate_normal(values.mean(0), np.cov(values, rowvar=False))
    got = negative_log_density(fit_gaussian(values), np.float32(values[:20]))
    np.testing.assert_allclose(got, -normal.logpdf(values[:20]), rtol=2e-2)


def test_a_statistic_that_does_not_vary_can_be_fitted():
    gaussian = fit_gaussian(np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]]))
    near, far = negative_log_density(gaussian, np.float32([[2.0, 5.0], [2.0, 5.1]]))
    assert np.isfinite(near) and np.isfinite(far) and far > near


def test_too_few_images_are_refused():
    detector = baselines.two_sided(tiny.gaussian(), encoders.pixels())
    words = "holds out 2 images; expected at least 3 .*: give 60 in-distribution images or more"
    with pytest.raises(InputError, match=words):
        detector.fit(jax.random.key(0), tiny.split(40))
    with pytest.raises(InputError, match="a ndarray was given where a Split is expected"):
        detector.fit(jax.random.key(0), tiny.images(80))
