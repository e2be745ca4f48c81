import jax
import numpy as np
import scipy.stats

from ecood import baselines
from ecood.baselines.codecs import complexity
from ecood.code_length import code_length
from ecood.detector import detections
from tests import small
from tests.baselines import tiny

KEY = jax.random.key(4)


def test_likelihood_less_the_length_in_the_universal_code():
    flow, images = tiny.gaussian(), np.concatenate([tiny.hard_images(), tiny.images(4)])
    detector = baselines.universal_complexity(flow)
    got = detections(detector, detector.fit(KEY, tiny.split(80)), KEY, images)
    bits, length = tiny.known_statistics(KEY, images)[:, 0], np.asarray(code_length(images))
    np.testing.assert_allclose(got.score, bits - length, atol=5e-5)
    np.testing.assert_allclose(got.bits, bits, atol=5e-5)
    np.testing.assert_allclose(got.code_length, length, atol=1e-5)


def test_it_ranks_images_as_the_codecs_of_the_host_do():
    rng = np.random.default_rng(0)
    smooth = small.images(40, shape=(32, 32, 3)) // 2
    noise = rng.integers(0, np.arange(2, 122, 3).reshape(-1, 1, 1, 1), (40, 32, 32, 3))
    images = np.uint8(smooth + noise)
    ours, theirs = np.asarray(code_length(images)), complexity(images)
    assert scipy.stats.spearmanr(ours, theirs).statistic > 0.98
