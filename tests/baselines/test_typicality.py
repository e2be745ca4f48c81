import jax
import jax.numpy as jnp
import numpy as np

from ecood import baselines
from ecood.detector import detections, scores
from ecood.splits import as_split
from tests.baselines import tiny


def test_distance_from_the_entropy_of_held_out_images():
    flow, key = tiny.gaussian(), jax.random.key(3)
    split, images = tiny.split(100), tiny.hard_images()
    detector = baselines.typicality(flow)
    state = detector.fit(key, split)
    entropy = tiny.known_statistics(key, split.held_out)[:, 0].mean()
    assert abs(float(state.entropy) - entropy) < 1e-5
    bits, found = tiny.known_statistics(key, images)[:, 0], detections(detector, state, key, images)
    np.testing.assert_allclose(found.score, np.abs(bits - entropy), atol=2e-5)
    np.testing.assert_allclose(found.bits, bits, atol=2e-5)


def test_too_likely_is_as_odd_as_too_unlikely():
    flow, key = tiny.gaussian(scale=0.1, mean=0.5), jax.random.key(0)
    rng = np.random.default_rng(0)
    draws = np.clip(256 * (0.5 + 0.1 * rng.normal(size=(400, *tiny.SHAPE))), 0, 255)
    detector = baselines.typicality(flow)
    state = detector.fit(key, as_split(draws.astype(np.uint8)))
    # The mode of the density, which is nothing like a draw from it, and what lies far away.
    mode = np.full((1, *tiny.SHAPE), 127, np.uint8)
    likelihood = scores(baselines.likelihood(flow), flow, key, mode)
    assert likelihood[0] < float(state.entropy)
    odd = scores(detector, state, key, np.concatenate([mode, tiny.hard_images()]))
    assert odd.min() > scores(detector, state, key, draws[:50].astype(np.uint8)).max()


def test_groups():
    bits = jnp.array([[1.0, 3.0], [5.0, 2.0]])
    np.testing.assert_allclose(baselines.group_typicality(2.5, bits), [0.5, 1.0])
    np.testing.assert_allclose(baselines.group_typicality(2.5, bits[:, :1]), [1.5, 2.5])
