import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import baselines, flows
from ecood.detector import detections, scores
from ecood.errors import InputError
from tests.baselines import tiny


def test_mean_and_variance_over_known_densities():
    key = jax.random.key(9)
    images = np.concatenate([tiny.images(5), tiny.hard_images()])
    scales = (0.25, 0.3, 0.4)
    detector = baselines.waic(*map(tiny.gaussian, scales))
    state = detector.fit(key, tiny.split(80))
    assert len(state) == 3
    costs = np.stack([tiny.known_statistics(key, images, scale)[:, 0] for scale in scales])
    nats = (costs - 8) * tiny.D * np.log(2)
    found = detections(detector, state, key, images)
    np.testing.assert_allclose(found.mean, nats.mean(axis=0), rtol=1e-4, atol=0.01)
    np.testing.assert_allclose(found.variance, nats.var(axis=0), rtol=1e-3, atol=0.01)
    expected = nats.mean(axis=0) + nats.var(axis=0)
    np.testing.assert_allclose(found.score, expected, rtol=1e-4, atol=0.01)


def test_disagreement_counts():
    agree = baselines.waic(tiny.gaussian(0.3), tiny.gaussian(0.3))
    differ = baselines.waic(tiny.gaussian(0.2), tiny.gaussian(0.45))
    key, images = jax.random.key(0), tiny.images(4)
    alike, apart = (scores(d, d.fit(key, tiny.split(80)), key, images) for d in (agree, differ))
    one = scores(baselines.likelihood(tiny.gaussian(0.3)), tiny.gaussian(0.3), key, images)
    np.testing.assert_allclose(alike, (one - 8) * tiny.D * np.log(2), rtol=1e-4, atol=1e-3)
    assert np.all(apart > alike)


def test_one_flow_is_no_ensemble():
    with pytest.raises(InputError, match="1 flow was given"):
        baselines.waic(tiny.gaussian())


@pytest.mark.parametrize("value", [-jnp.inf, jnp.nan])
def test_a_member_whose_density_explodes_gives_the_largest_score(value):
    lost = flows.Flow(lambda variables, key, x: jnp.full(x.shape[0], value), {})
    detector = baselines.waic(tiny.gaussian(), lost)
    state = detector.fit(jax.random.key(0), tiny.split(20))
    found = detector.score(state, jax.random.key(1), tiny.images(3))
    np.testing.assert_array_equal(found, np.finfo(np.float32).max)
