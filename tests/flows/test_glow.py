import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import flows
from ecood.errors import InputError
from ecood.flows import Glow
from tests import small

MODULE = Glow(small.SHAPE, depth=3, levels=2, width=8)
RUN = jax.jit(MODULE.apply, static_argnames=("method",))


@pytest.fixture(scope="module")
def start():
    """Uniform images and the variables that they initialise."""
    x = jnp.float32(np.random.default_rng(0).uniform(size=(128, *small.SHAPE)))
    return x, jax.jit(MODULE.init)(jax.random.key(1), x)


@pytest.fixture(scope="module")
def flow(start):
    """The same with couplings that are not the identity."""
    variables = start[1]
    return flows.bind(MODULE, {**variables, "params": small.moved(variables["params"], 0.03)})


def test_initialisation_normalises_what_it_is_given(start):
    x, variables = start
    loc = variables["params"]["level_0"]["act_norm"]["bias"]
    assert loc.shape == (3, 12)
    z, _ = RUN(variables, x, method="forward_and_log_det")
    assert float(jnp.abs(z.mean())) < 1e-3
    assert 0.7 < float(z.std()) < 1.1


def test_log_prob_is_prior_plus_log_det_and_the_inverse_is_exact(start, flow):
    x = start[0]
    z, log_det = RUN(flow.variables, x, method="forward_and_log_det")
    back, inverse_log_det = RUN(flow.variables, z, method="inverse_and_log_det")
    chex.assert_trees_all_close(back, x, atol=1e-5)
    chex.assert_trees_all_close(inverse_log_det, -log_det, atol=1e-3)
    jacobian = jax.jit(
        jax.jacrev(lambda u: flow.forward_and_log_det(jax.random.key(0), u[None])[0][0])
    )(x[0])
    expected = np.linalg.slogdet(np.asarray(jacobian, np.float64).reshape(192, 192))[1]
    assert float(log_det[0]) == pytest.approx(expected, abs=2e-3)


def test_the_map_of_the_density_adds_up_to_it(start, flow):
    x = start[0][:8]
    nats = RUN(flow.variables, x, method="log_prob_map")
    assert nats.shape == (8, 8, 8)
    np.testing.assert_allclose(nats.sum((1, 2)), RUN(flow.variables, x), rtol=1e-5)


def test_the_map_is_where_the_pixels_are():
    x = np.full((1, *small.SHAPE), 0.5, np.float32)
    x[0, 5, 2] = 3.0
    run = jax.jit(flows.Flow.log_prob_map)
    nats = run(small.blank_flow(), jax.random.key(0), x)[0]
    costly = np.zeros((8, 8), bool)
    costly[4:6, 2:4] = True  # a position of one level is 2 x 2 pixels
    np.testing.assert_array_equal(nats < nats[0, 0] - 1, costly)
    np.testing.assert_allclose(nats[~costly], nats[0, 0], rtol=1e-5)


def test_a_density_without_places_refuses_a_map():
    with pytest.raises(InputError, match="is no sum over pixels; choose a flow with a method"):
        small.gaussian().log_prob_map(jax.random.key(0), np.zeros((1, *small.SHAPE)))


def test_samples_have_finite_likelihood_and_look_like_the_priors_say(flow):
    sample = jax.jit(lambda variables, key: MODULE.apply(variables, key, 128, method="sample"))
    samples = sample(flow.variables, jax.random.key(0))
    assert samples.shape == (128, *small.SHAPE)
    small.assert_finite(RUN(flow.variables, samples))
    z, _ = RUN(flow.variables, samples, method="forward_and_log_det")
    assert 0.8 < float(z.std()) < 1.3


def program_size(depth):
    module = Glow(small.SHAPE, depth=depth, levels=2, width=8)
    x = jax.ShapeDtypeStruct((2, *small.SHAPE), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return len(jax.jit(module.apply).lower(variables, x).as_text())


def test_the_program_does_not_grow_with_depth():
    assert program_size(32) < 1.02 * program_size(2)


@pytest.mark.slow
def test_the_papers_size_builds_scores_and_lowers_for_accelerators():
    module = Glow((32, 32, 3), depth=32, levels=3, width=512)
    x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    started = time.perf_counter()
    variables = jax.jit(module.init)(jax.random.key(0), x)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert 43e6 < parameters < 46e6
    step = jax.jit(jax.value_and_grad(lambda p: -module.apply({**variables, "params": p}, x).sum()))
    value, gradient = step(variables["params"])
    small.assert_finite(value)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    assert time.perf_counter() - started < 600
    traced = jax.jit(module.apply).trace(variables, x)
    for platform in ("cuda", "tpu"):
        assert "stablehlo.convolution" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_its_arithmetic_is_counted():
    # 16 positions, 8 channels: mix 64, inner 9*4*8, middle 64, outer 9*8*8
    assert Glow((8, 8, 2), 2, 1, 8).forward_flops == 2 * 2 * 16 * (64 + 288 + 64 + 576)
    # then 4 positions, 16 channels; the prior of 4 channels is told by 4
    further = 2 * 4 * (256 + 9 * 8 * 8 + 64 + 9 * 8 * 16)
    two = Glow((8, 8, 2), 2, 2, 8).forward_flops
    assert two == 2 * (2 * 16 * (64 + 288 + 64 + 576) + 16 * 9 * 4 * 8 + further)


TINY = Glow((4, 4, 1), 1, 2, 4)
TINY_START = jax.jit(TINY.init)
TINY_RUN = jax.jit(TINY.apply, static_argnames=("method",))
TINY_SLOPE = jax.jit(jax.grad(lambda x, variables: TINY.apply(variables, x).sum()))


@pytest.mark.parametrize("log_scale", [88.0, 89.0, 120.0, 500.0])
def test_a_priors_scale_may_exceed_the_largest_float(log_scale):
    """As it does on a checkerboard of single pixels; eager and compiled, values and gradients."""
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 1))
    start = TINY_START(jax.random.key(1), x)
    bias = start["params"]["prior_0"]["bias"]
    split = 4 * len(bias) // 2  # numbers that the first level splits off, each log N(0; 0, e^s)

    def at(log_scale):
        changed = bias.at[len(bias) // 2 :].set(log_scale)
        prior = start["params"]["prior_0"] | {"bias": changed}
        return start | {"params": start["params"] | {"prior_0": prior}}

    variables = at(log_scale)
    rest = np.asarray(TINY_RUN(variables, x, method="log_prob_of_levels"))[:, 0]
    half = np.asarray(TINY_RUN(variables, x, method="forward_and_log_det")[0])[:, :split]
    np.testing.assert_allclose(half, 0, atol=1e-30)
    found = TINY.apply(variables, x)
    small.assert_finite((found, rest))
    np.testing.assert_allclose(TINY_RUN(variables, x), found, rtol=1e-5)
    small.assert_finite(TINY_SLOPE(x, variables))
    np.testing.assert_allclose(TINY_RUN(at(log_scale + 1), x), found - split, rtol=1e-5)
