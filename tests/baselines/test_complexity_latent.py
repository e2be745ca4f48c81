import sys

import jax
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from ecood import baselines
from ecood.baselines.codecs import complexity
from ecood.detector import detections
from ecood.errors import InputError
from ecood.splits import as_split
from tests.baselines import tiny

KEY = jax.random.key(7)


def test_mixture_over_complexity_and_latent_density():
    id_images, images = tiny.images(1200), np.concatenate([tiny.images(6, 1), tiny.hard_images()])
    id_images[::2] = 128 + id_images[::2] // 32  # half of them are simple: two clusters
    detector = baselines.complexity_latent(tiny.gaussian())
    split = as_split(id_images)
    state = detector.fit(KEY, split)

    def statistics(images):
        return np.stack([complexity(images), tiny.known_statistics(KEY, images)[:, 1]], axis=1)

    fitted = statistics(split.held_out)
    mean, spread = fitted.mean(axis=0), fitted.std(axis=0, ddof=1)
    k = len(state.log_weights)
    mixture = GaussianMixture(k, reg_covar=1e-4, random_state=0, max_iter=1000)
    mixture.fit((fitted - mean) / spread)
    expected = np.log(spread).sum() - mixture.score_samples((statistics(images) - mean) / spread)
    found = detections(detector, state, KEY, images)
    got = found.score
    np.testing.assert_allclose(got, expected, rtol=2e-2, atol=2e-2)
    assert k >= 2
    np.testing.assert_allclose(np.stack(found[1:], 1), statistics(images), rtol=1e-4, atol=1e-5)
    # Between the clusters each variable is usual, and the pair is not.
    assert got[6:].min() > got[:6].max()


def test_a_flow_without_latent_is_refused():
    with pytest.raises(InputError, match="complexity_latent looks at the flow's latent"):
        baselines.complexity_latent(tiny.gaussian().replace(latent=None))


def test_without_scikit_learn_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    detector = baselines.complexity_latent(tiny.gaussian())
    with pytest.raises(InputError, match=r"scikit-learn.*pip install \"ecood\[baselines\]\""):
        detector.fit(KEY, tiny.split(80))
