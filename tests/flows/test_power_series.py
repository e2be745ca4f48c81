import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.flows import power_series
from tests import small

DRAWS = 20_000


def matrices(norm, batch=3, d=5):
    """Random Jacobians [B, D, D] of the given spectral norm."""
    values = np.random.default_rng(0).normal(size=(batch, d, d))
    return jnp.asarray(norm * values / np.linalg.norm(values, 2, (1, 2), keepdims=True))


def transposed_product(jacobian):
    return lambda c: jnp.einsum("bij,bi->bj", jacobian, c)


def exact(jacobian):
    return np.linalg.slogdet(np.eye(jacobian.shape[-1]) + np.asarray(jacobian))[1]


def assert_within(samples, expected, sigmas=5.0):
    """The mean of `samples` [N, ...] is `expected`, within so many standard errors each."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(0, ddof=1) / math.sqrt(len(samples))
    np.testing.assert_array_less(np.abs(samples.mean(0) - expected), sigmas * error + 1e-12)


def test_exact_log_det_is_the_determinant():
    with jax.enable_x64(True):
        jacobian = matrices(0.9)
        value = power_series.exact_log_det(
            lambda t: jnp.einsum("bij,bj->bi", jacobian, t), jnp.zeros((3, 5))
        )
        np.testing.assert_allclose(value, exact(jacobian), rtol=1e-12)


@pytest.mark.parametrize("terms", [1, 4, 15])
def test_truncated_series_over_all_probes_is_within_its_bound(terms):
    """The mean over all 2^5 sign vectors is the trace itself, so only truncation is left."""
    with jax.enable_x64(True):
        jacobian = matrices(0.8)
        signs = jnp.asarray(np.array(np.meshgrid(*[[-1.0, 1.0]] * 5)).reshape(5, -1).T)
        values = jax.vmap(
            lambda v: power_series.log_det(
                transposed_product(jacobian), jnp.broadcast_to(v, (3, 5)), terms
            )
        )(signs)
        error = np.abs(np.mean(values, 0) - exact(jacobian))
        assert np.all(error < power_series.truncation_bound(0.8, 5, terms))
        powers = [np.linalg.matrix_power(np.asarray(jacobian), k) for k in range(1, terms + 1)]
        series = sum(
            -((-1) ** k) / k * np.trace(p, axis1=1, axis2=2) for k, p in enumerate(powers, 1)
        )
        np.testing.assert_allclose(np.mean(values, 0), series, rtol=1e-10)


def test_truncation_bound_covers_the_worst_case():
    for terms in (1, 10, 40):
        series = sum(-(0.9**k) / k for k in range(1, terms + 1))
        error = 7 * abs(math.log(1 - 0.9) - series)
        bound = power_series.truncation_bound(0.9, 7, terms)
        assert 0.3 * bound < error < bound


def test_terms_are_at_least_three_and_four_on_average():
    keys = jax.random.split(jax.random.key(0), DRAWS)
    terms = jax.vmap(power_series.draw_terms)(keys)
    assert jnp.min(terms) == 3
    assert_within(terms, 4.0)
    assert_within(terms >= 5, 0.25)


def roulette(jacobian, key, exact=power_series.EXACT_TERMS):
    probe_key, terms_key = jax.random.split(key)
    probe = power_series.draw_probe(probe_key, jacobian.shape[:2], jacobian.dtype)
    terms = power_series.draw_terms(terms_key, exact)
    product = transposed_product(jacobian)
    return probe, *power_series.roulette_log_det(product, probe, terms, exact)


def test_roulette_is_unbiased():
    with jax.enable_x64(True):
        jacobian = matrices(0.7)
        keys = jax.random.split(jax.random.key(1), DRAWS)
        _, estimates, _ = jax.jit(jax.vmap(lambda key: roulette(jacobian, key)))(keys)
        assert_within(estimates, exact(jacobian))


def test_roulette_over_exact_traces_is_unbiased_in_the_number_of_terms_alone():
    """Without the probes' variance, which would hide a wrong weight of a late term."""
    with jax.enable_x64(True):
        jacobian = 0.7 * jnp.ones((1, 1, 1))
        keys = jax.random.split(jax.random.key(2), DRAWS)
        _, estimates, neumann = jax.jit(jax.vmap(lambda key: roulette(jacobian, key)))(keys)
        assert_within(estimates, math.log(1.7))
        signs, _, neumann = jax.jit(jax.vmap(lambda key: roulette(-jacobian, key)))(keys)
        assert_within(signs * neumann, 1 / 0.3)


def test_roulette_after_more_exact_terms_has_no_bias_where_the_truncated_series_has():
    with jax.enable_x64(True):
        jacobian = 0.95 * jnp.ones((1, 1, 1))
        truncated = power_series.log_det(transposed_product(jacobian), jnp.ones((1, 1)), 5)
        assert abs(float(truncated[0]) - math.log(1.95)) > 0.05
        keys = jax.random.split(jax.random.key(4), DRAWS)
        _, estimates, _ = jax.jit(jax.vmap(lambda key: roulette(jacobian, key, 5)))(keys)
        assert_within(estimates, math.log(1.95))


def test_neumann_vector_gives_the_gradient_of_the_log_determinant():
    """E[w v^T] = (I + J)^-T, the derivative of log det(I + J)."""
    with jax.enable_x64(True):
        jacobian = matrices(0.6)
        keys = jax.random.split(jax.random.key(3), DRAWS)
        probe, _, neumann = jax.jit(jax.vmap(lambda key: roulette(jacobian, key)))(keys)
        gradient = neumann[..., :, None] * probe[..., None, :]
        expected = np.linalg.inv(np.eye(5)[None] + np.asarray(jacobian)).transpose(0, 2, 1)
        assert_within(gradient, expected)


def test_one_program_serves_every_number_of_terms():
    jacobian = jnp.float32(matrices(0.5))
    probe = jnp.ones((3, 5))
    run = jax.jit(lambda n: power_series.roulette_log_det(transposed_product(jacobian), probe, n))
    few = run(jnp.int32(3))
    with small.programs() as made:
        many = run(jnp.int32(9))
    assert made == []
    series = [power_series.log_det(transposed_product(jacobian), probe, n) for n in (3, 4)]
    np.testing.assert_allclose(few[0], series[0], rtol=1e-5)
    assert not np.allclose(many[0], few[0])
    doubled = run(jnp.int32(4))[0] - few[0]  # the fourth term is there every other time
    np.testing.assert_allclose(doubled, 2 * (series[1] - series[0]), rtol=1e-3, atol=1e-6)


def test_the_number_of_terms_is_the_same_under_x64():
    found = [int(power_series.draw_terms(jax.random.key(i))) for i in range(20)]
    with jax.enable_x64(True):
        assert [int(power_series.draw_terms(jax.random.key(i))) for i in range(20)] == found
    assert len(set(found)) > 1
