import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ecood import baselines, flows
from ecood.convolution import batch_first, batch_last
from ecood.detector import detections, scores
from ecood.errors import InputError
from ecood.statistics import dequantised
from tests import small
from tests.baselines import tiny

KEY = jax.random.key(8)
SHAPE, D = (8, 8, 3), 192


@functools.cache
def three_levels(seed: int) -> flows.Flow:
    module = flows.Glow(SHAPE, depth=1, levels=3, width=4)
    x = dequantised(KEY, jnp.asarray(small.images(16, seed)))
    variables = jax.jit(module.init)(jax.random.key(seed), x)
    return flows.bind(module, variables | {"params": small.moved(variables["params"], 0.05, seed)})


@jax.jit
def last_level(flow: flows.Flow, images: np.ndarray) -> tuple[jax.Array, ...]:
    """Run the levels, keep the half that goes on: it, its log-determinant, mean and log-scale."""
    module = flow.density.bind(flow.variables)
    x = dequantised(KEY, jnp.asarray(images)) - 0.5
    for level in range(3):
        x, _ = module.squeeze.forward_and_log_det(x)
        start = batch_last(x), jnp.zeros(len(images))
        (x, log_det), _ = module.steps[level].forward_step(start)
        x = batch_first(x)
        if level < 2:
            x = x[..., : x.shape[-1] // 2]
    return x, log_det, module.top_mean, module.top_log_scale


def last_term(flow: flows.Flow, images: np.ndarray) -> np.ndarray:
    """The last level by hand, by the prior's log."""
    x, log_det, mean, log_scale = map(np.asarray, last_level(flow, images))
    prior = scipy.stats.norm(mean, np.exp(log_scale))
    return np.sum(prior.logpdf(x), axis=(1, 2, 3)) + log_det


def test_difference_of_two_known_densities():
    images = np.concatenate([tiny.images(5), tiny.hard_images()])
    detector = baselines.general_ratio(tiny.gaussian(0.3), tiny.gaussian(0.5, mean=0.2))
    cost = tiny.known_statistics(KEY, images)[:, 0]
    general = tiny.known_statistics(KEY, images, 0.5, 0.2)[:, 0]
    found = detections(detector, detector.fit(KEY, tiny.split(80)), KEY, images)
    np.testing.assert_allclose(found.score, cost - general, atol=5e-5)


def test_the_levels_of_a_glow_add_up_and_the_last_is_known():
    flow, images = three_levels(1), small.images(5, seed=3)
    x = dequantised(KEY, jnp.asarray(images))
    terms = jax.jit(flows.Flow.log_prob_of_levels)(flow, KEY, x)
    assert terms.shape == (5, 3)
    log_prob = jax.jit(flows.Flow.log_prob)(flow, KEY, x)
    np.testing.assert_allclose(np.sum(terms, axis=1), log_prob, rtol=1e-5)
    np.testing.assert_allclose(terms[:, 2], last_term(flow, images), rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_the_last_level_alone_and_against_a_general_flow():
    flow, general, images = three_levels(1), three_levels(2), small.images(5, seed=3)
    costs = [-last_term(f, images) / (D * math.log(2)) for f in (flow, general)]
    assert np.abs(costs).max() < 8  # not guarded
    alone, against = (
        scores(detector, detector.fit(KEY, None), KEY, images)
        for detector in (
            baselines.last_level(flow),
            baselines.general_ratio(flow, general, last_level=True),
        )
    )
    np.testing.assert_allclose(alone, costs[0], atol=1e-4)
    np.testing.assert_allclose(against, costs[0] - costs[1], atol=1e-4)


def test_a_flow_that_does_not_tell_its_levels_is_refused():
    module = flows.ClassGlow(SHAPE, depth=1, levels=1, width=4)
    flow = flows.bind(module, {})
    with pytest.raises(InputError, match="ClassGlow does not tell what each level adds"):
        flow.log_prob_of_levels(KEY, jnp.zeros((1, *SHAPE)))
