import sys

import jax
import numpy as np
import pytest
import scipy.stats
from sklearn.svm import OneClassSVM

from ecood import baselines
from ecood.detector import detections, scores
from ecood.errors import InputError
from tests.baselines import tiny

KEY = jax.random.key(5)
SCALE = np.linspace(0.2, 0.5, tiny.D)


@pytest.fixture(scope="module")
def known():
    """A split, test images, and the statistics of held-out and test images."""
    split, images = tiny.split(400), np.concatenate([tiny.images(9, 1), tiny.hard_images()])
    values = [tiny.known_statistics(KEY, x, SCALE) for x in (split.held_out, images)]
    return split, images, *values


def test_kde_is_the_sum_of_scipys(known):
    split, images, fitted, values = known
    detector = baselines.dose_kde(tiny.gaussian(SCALE))
    state = detector.fit(KEY, split)
    # The volume term of this flow is constant: its kernels all have the floor's width.
    assert np.ptp(np.asarray(state.values)[:, 2]) < 1e-5
    expected = scipy.stats.norm(fitted[0, 2], state.bandwidth[2]).logpdf(values[:, 2])
    for i in range(2):
        kde = scipy.stats.gaussian_kde(fitted[:, i], "scott")
        np.testing.assert_allclose(state.bandwidth[i] ** 2, kde.covariance[0, 0], rtol=1e-3)
        expected = expected + kde.logpdf(values[:, i])
    found = detections(detector, state, KEY, images)
    got = found.score
    np.testing.assert_allclose(np.stack(found[1:], axis=1), values, rtol=1e-4, atol=1e-5)
    near = np.isfinite(expected)  # scipy's kernels underflow where ours go on
    np.testing.assert_allclose(got[near], -expected[near], rtol=5e-3, atol=5e-3)
    assert np.all(np.isfinite(got)) and near.sum() >= 9


def test_svm_ranks_as_scikit_learns_decision_function(known):
    split, images, fitted, values = known
    detector = baselines.dose_svm(tiny.gaussian(SCALE))
    state = detector.fit(KEY, split)
    mean, spread = np.asarray(state.mean), np.asarray(state.spread)
    np.testing.assert_allclose(mean, fitted.mean(0), atol=1e-4)
    machine = OneClassSVM(gamma=1 / 3).fit((fitted - mean) / spread)
    decision = machine.decision_function((values - mean) / spread)
    got = scores(detector, state, KEY, images)
    near = decision + machine.offset_ > 1e-6
    expected = -np.log((decision + machine.offset_)[near])
    assert near.sum() >= 5
    np.testing.assert_allclose(got[near], expected, rtol=2e-2, atol=2e-2)
    # Where the machine says no more than "far", the logarithm still orders.
    far = np.argsort(np.abs(values[:, 0] - fitted[:, 0].mean()))[-2:]
    assert got[far[0]] < got[far[1]]


def test_a_flow_without_latent_is_refused():
    flow = tiny.gaussian().replace(latent=None)
    for make in (baselines.dose_kde, baselines.dose_svm):
        with pytest.raises(InputError, match="DoSE looks at the flow's latent"):
            make(flow)


def test_without_scikit_learn_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    detector = baselines.dose_svm(tiny.gaussian())
    with pytest.raises(InputError, match=r"scikit-learn.*pip install \"ecood\[baselines\]\""):
        detector.fit(KEY, tiny.split(80))
