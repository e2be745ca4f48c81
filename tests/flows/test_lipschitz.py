import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ecood.convolution import conv
from ecood.flows import lipschitz

SHAPE = (6, 5, 3)


def dense(kernel, shape):
    """The convolution as a matrix, built from its action on the basis, in float64."""
    basis = jnp.eye(np.prod(shape)).reshape(-1, *shape)
    return np.asarray(conv(basis, kernel), np.float64).reshape(len(basis), -1).T


@pytest.mark.parametrize(("size", "features"), [(3, 8), (3, 2), (1, 8), (1, 2)])
def test_spectral_conv_has_the_coefficient_as_its_operator_norm(size, features):
    module = lipschitz.SpectralConv(features, size)
    variables = jax.jit(module.init, static_argnums=1)(jax.random.key(0), SHAPE)
    kernel, bias = jax.jit(module.apply, static_argnums=1)(variables, SHAPE)
    norm = np.linalg.norm(dense(kernel, SHAPE), 2)
    assert bias.shape == (features,)
    np.testing.assert_allclose(norm, lipschitz.COEFFICIENT, rtol=2e-3)


def test_spectral_conv_leaves_a_small_kernel_alone():
    module = lipschitz.SpectralConv(8)
    variables = jax.jit(module.init, static_argnums=1)(jax.random.key(0), SHAPE)
    small = jax.tree.map(lambda leaf: 0.01 * leaf, variables["params"])
    kernel, _ = jax.jit(module.apply, static_argnums=1)({**variables, "params": small}, SHAPE)
    np.testing.assert_array_equal(kernel, small["kernel"])


def test_power_iteration_finds_the_norm_and_its_derivative():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 4))
    start = jax.random.normal(jax.random.key(1), (4, *SHAPE))
    run = jax.jit(
        jax.value_and_grad(
            lambda kernel: lipschitz.power_iteration(kernel, start, 5000), has_aux=True
        )
    )
    (norm, vectors), gradient = run(kernel)
    left, values, right = np.linalg.svd(dense(kernel, SHAPE))
    np.testing.assert_allclose(norm, values[0], rtol=2e-4)
    flat = vectors.reshape(4, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(4), atol=1e-5)
    change = 0.01 * jax.random.normal(jax.random.key(2), kernel.shape)
    expected = left[:, 0] @ dense(change, SHAPE) @ right[0]
    np.testing.assert_allclose(jnp.vdot(gradient, change), expected, rtol=0.05)


def test_a_vector_that_has_lost_the_lead_does_not_hold_the_norm_down():
    """A 1x1 convolution whose second direction outgrows the first, after convergence."""
    kernel = jnp.diag(jnp.array([1.00, 0.99, 0.5, 0.4, 0.3, 0.2]))[None, None]
    start = jax.random.normal(jax.random.key(0), (4, 1, 1, 6))
    run = jax.jit(lipschitz.power_iteration, static_argnums=2)
    _, vectors = run(kernel, start, 500)
    grown = kernel.at[0, 0, 1, 1].set(1.01)
    norm, _ = run(grown, vectors, 1)
    np.testing.assert_allclose(norm, 1.01, rtol=1e-5)


def test_the_norm_is_converged_at_initialisation_and_rests_at_evaluation():
    module = lipschitz.LipschitzNet(8)
    variables = jax.jit(module.init, static_argnums=1)(jax.random.key(0), SHAPE)
    run = jax.jit(
        lambda variables, train: module.apply(variables, SHAPE, train, mutable=["lipschitz"]),
        static_argnums=1,
    )
    layers, untouched = run(variables, False)
    again, _ = run(variables, False)
    chex.assert_trees_all_equal(layers, again)
    chex.assert_trees_all_equal(untouched["lipschitz"], variables["lipschitz"])
    trained, updated = run(variables, True)
    chex.assert_trees_all_close(layers, trained, rtol=1e-4, atol=1e-6)
    changes = jax.tree.map(
        lambda a, b: jnp.any(a != b), updated["lipschitz"], variables["lipschitz"]
    )
    assert any(jax.tree.leaves(changes))


@functools.cache
def trained():
    """Inputs, and weights, their average and the state after large steps to a large Jacobian."""
    module = lipschitz.LipschitzNet(8)
    variables = jax.jit(module.init, static_argnums=1)(jax.random.key(0), SHAPE)
    x = jax.random.normal(jax.random.key(1), (4, *SHAPE))
    target = 3.0 * x
    optimiser = optax.adam(1e-2)

    def loss(params, state):
        layers, state = module.apply(
            {"params": params, **state}, SHAPE, train=True, mutable=["lipschitz"]
        )
        return jnp.mean((lipschitz.evaluate(layers, x)[0] - target) ** 2), state

    @jax.jit
    def step(carry, _):
        params, state, opt_state, ema = carry
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params, state)
        updates, opt_state = optimiser.update(gradient, opt_state)
        params = optax.apply_updates(params, updates)
        ema = optax.incremental_update(params, ema, 0.05)
        return (params, state, opt_state, ema), value

    params, state = variables["params"], {"lipschitz": variables["lipschitz"]}
    carry = (params, state, optimiser.init(params), params)
    (params, state, _, ema), values = jax.lax.scan(step, carry, length=100)
    assert values[-1] < values[0]
    return x, params, ema, state


EVALUATED = jax.jit(lambda variables: lipschitz.LipschitzNet(8).apply(variables, SHAPE))


@jax.jit
def outputs_and_jacobians(layers, x):
    """g(x), and its Jacobian at each x, [90, B, *SHAPE], by products with the basis."""
    y, slopes = lipschitz.evaluate(layers, x)
    basis = jnp.eye(90).reshape(90, 1, *SHAPE)
    basis = jnp.broadcast_to(basis, (90, *x.shape))
    return y, jax.vmap(lambda t: lipschitz.jvp(layers, slopes, t))(basis)


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [False, True])
def test_the_bound_holds_after_optimiser_steps_that_pull_against_it(averaged):
    """The stored vectors only follow the steps.

    Evaluated with averaged weights, for which no vector was ever stored, too.
    """
    x, params, ema, state = trained()
    layers = EVALUATED({"params": ema if averaged else params, **state})
    c_in = SHAPE[-1]
    for layer in layers:
        norm = np.linalg.norm(dense(layer.kernel, (*SHAPE[:2], c_in)), 2)
        assert norm < 1.01 * lipschitz.COEFFICIENT
        assert norm > 0.9 * lipschitz.COEFFICIENT  # the bound binds: it is tested here
        c_in = layer.kernel.shape[-1]
    # and so it holds for g, in the Jacobian at a point and between points
    y, jacobian = outputs_and_jacobians(layers, x)
    norms = np.linalg.norm(np.asarray(jacobian).reshape(90, 4, 90).transpose(1, 0, 2), 2, (1, 2))
    assert np.all(norms < lipschitz.COEFFICIENT ** len(layers))
    other = jax.random.normal(jax.random.key(2), x.shape)
    change = np.linalg.norm((outputs_and_jacobians(layers, other)[0] - y).reshape(4, -1), axis=1)
    assert np.all(change < np.linalg.norm((other - x).reshape(4, -1), axis=1))


def test_products_with_the_jacobian_match_autodiff():
    with jax.enable_x64(True):
        module = lipschitz.LipschitzNet(8)
        variables = jax.jit(module.init, static_argnums=1)(jax.random.key(0), SHAPE)
        variables = jax.tree.map(jnp.float64, variables)
        layers = jax.jit(module.apply, static_argnums=1)(variables, SHAPE)
        x, v = jax.random.normal(jax.random.key(1), (2, 4, *SHAPE))
        evaluate = jax.jit(lambda x: lipschitz.evaluate(layers, x)[0])
        slopes = jax.jit(lipschitz.evaluate)(layers, x)[1]
        expected = jax.jit(lambda v: jax.vjp(evaluate, x)[1](v)[0])(v)
        product = jax.jit(lipschitz.vjp)(layers, slopes, v)
        np.testing.assert_allclose(product, expected, rtol=1e-10, atol=1e-12)
        product = jax.jit(lipschitz.jvp)(layers, slopes, v)
        expected = (evaluate(x + 1e-5 * v) - evaluate(x - 1e-5 * v)) / 2e-5
        np.testing.assert_allclose(product, expected, rtol=1e-6, atol=1e-9)


LIP_SWISH_DERIVATIVE = jax.jit(
    jax.vmap(jax.grad(lambda x, beta: lipschitz.lip_swish(x, beta)[0]), (0, None))
)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_lip_swish_slope_is_its_derivative_and_bounded_by_one(beta):
    x = jnp.linspace(-60.0, 60.0, 20_001)
    value, slope = lipschitz.lip_swish(x, jnp.float32(beta))
    derivative = LIP_SWISH_DERIVATIVE(x, jnp.float32(beta))
    np.testing.assert_allclose(slope, derivative, atol=1e-5)
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(value, x / (1 + np.exp(-beta * x)) / 1.1, rtol=1e-4, atol=1e-30)
    assert jnp.all((slope < 1.0) & (slope > -0.1))
    assert jnp.max(slope) > 0.99
