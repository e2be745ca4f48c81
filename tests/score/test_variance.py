import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.errors import InputError
from ecood.score.spem import perturbed_bits
from ecood.score.variance import score_variance
from tests.baselines import tiny

SIGMA, SCALE = 0.05, 0.3


@pytest.mark.parametrize(("draws", "antithetic"), [(1, False), (4, False), (2, True)])
def test_noise_variance_of_a_gaussian_flow_is_the_closed_form(draws, antithetic):
    """One draw costs |d + sigma z|^2 / 2 s^2: its variance is that of a chi-square."""
    flow, images = tiny.gaussian(SCALE), tiny.images(6)
    run = jax.jit(
        functools.partial(
            perturbed_bits,
            flow,
            flow.variables,
            images=jnp.asarray(images),
            noise_scales=jnp.full(len(images), SIGMA),
            draws=draws,
            antithetic=antithetic,
        )
    )
    got = score_variance(np.stack([run(key=jax.random.key(i)) for i in range(300)]))
    distance = (images.reshape(len(images), -1) + 0.5) / 256 - 0.45
    even = 2 * SIGMA**4 * tiny.D
    odd = 4 * SIGMA**2 * np.sum(distance**2, axis=1)  # cancels in a pair
    per_draw = (even + (0 if antithetic else odd)) / (2 * SCALE**2 * tiny.D * np.log(2)) ** 2
    expected = per_draw / (1 if antithetic else draws)
    # The guard shrinks what costs more than 8 bits/dim.
    cost = 8 + np.log2(SCALE * np.sqrt(2 * np.pi))
    cost += (np.sum(distance**2, axis=1) / tiny.D + SIGMA**2) / (2 * SCALE**2 * np.log(2))
    slope = np.where(cost > 8, 1 / (1 + np.maximum(cost - 8, 0)), 1.0)
    assert got.noise == pytest.approx(np.mean(expected * slope**2), rel=0.2)


def test_two_known_variances_are_told_apart():
    rng = np.random.default_rng(0)
    runs = rng.normal(size=2000) + 0.5 * rng.normal(size=(10, 2000))
    got = score_variance(runs)
    assert got.noise == pytest.approx(0.25, rel=0.05)
    assert got.images == pytest.approx(1.0, rel=0.1)
    assert got.noise_share == pytest.approx(0.2, rel=0.1)
    assert score_variance(np.ones((2, 3))).noise_share == 0


def test_one_run_tells_nothing():
    with pytest.raises(InputError, match=r"runs has shape \[1, 5\]"):
        score_variance(np.zeros((1, 5)))
