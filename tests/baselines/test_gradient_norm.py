import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import baselines
from ecood.baselines.gradients import log_norm
from ecood.detector import scores
from ecood.flows import Flow
from ecood.statistics import dequantised
from tests import small
from tests.baselines import tiny


def test_a_gaussians_gradient():
    scale, key = np.linspace(0.2, 0.5, tiny.D), jax.random.key(0)
    images = np.concatenate([tiny.hard_images(), tiny.images(5)])
    detector = baselines.gradient_norm(tiny.gaussian(scale))
    got = scores(detector, detector.fit(key, tiny.split(80)), key, images)
    x = np.asarray(dequantised(key, jnp.asarray(images)), np.float64).reshape(len(images), -1)
    expected = np.log(np.linalg.norm((x - 0.45) / scale**2, axis=1))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_norms_far_beyond_float32s_squares_and_of_nothing():
    rows = np.array([[3.0, 4.0], [3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]], np.float32)
    got = np.asarray(log_norm(jnp.asarray(rows), (1,)))
    expected = [np.log(5), np.log(5e30), -50.0, -50.0]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_gradient_that_is_not_a_number_is_most_odd():
    flow = Flow(lambda v, k, x: jnp.log(jnp.sum(x - x, (1, 2, 3))), {})
    detector = baselines.gradient_norm(flow)
    got = detector.score(flow, jax.random.key(0), jnp.asarray(tiny.images(2)))
    small.assert_finite(got)
    assert np.all(np.asarray(got) > 1e38)


@pytest.mark.parametrize("odd", [jnp.nan, -jnp.inf])
def test_what_has_no_density_is_most_odd_though_its_gradient_is_zero(odd):
    def density(variables, key, x):
        nats = -jnp.sum((x - 0.5) ** 2, (1, 2, 3))
        return jnp.where(jnp.mean(x, (1, 2, 3)) > 0.9, odd, nats)

    flow = Flow(density, {})
    images = np.concatenate([tiny.images(2), np.full_like(tiny.images(1), 255)])
    got = baselines.gradient_norm(flow).score(flow, jax.random.key(0), jnp.asarray(images))
    small.assert_finite(got)
    assert got[2] > 1e38 > max(got[:2])
