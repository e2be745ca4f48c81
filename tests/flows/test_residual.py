import functools
import math
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from ecood.convolution import conv
from ecood.errors import InputError
from ecood.flows import Flow, bind, lipschitz, power_series
from ecood.flows.residual import ResidualFlow, ResidualStep, residual_and_log_det
from tests import small

SHAPE = (2, 2, 2)
FLOW = ResidualFlow((4, 4, 1), depth=4, levels=1, width=8)
FOUR_PROBES = FLOW.copy(probes=4)


def operator_norm(kernel, shape):
    """The largest singular value of the convolution on inputs of that shape, from its matrix."""
    basis = jnp.eye(math.prod(shape)).reshape(-1, *shape)
    return np.linalg.norm(np.float64(conv(basis, kernel)).reshape(len(basis), -1), 2)


@functools.cache
def block():
    """Layers near a scaled rotation there and back, far from the identity; inputs; float64."""
    rng = np.random.default_rng(0)
    within, other = np.linalg.qr(rng.normal(size=(2, 8, 8)))[0]
    into, layers = other[:2], []
    for size, matrix in [(3, into), (1, within), (3, (into @ within).T)]:
        kernel = 0.1 * rng.normal(size=(size, size, *matrix.shape))
        kernel[size // 2, size // 2] += matrix
        norm = operator_norm(jnp.asarray(kernel), (*SHAPE[:2], len(matrix)))
        bias = np.full(matrix.shape[1], 0.3)
        layers.append(lipschitz.Layer(np.array(3.0), 0.98 * kernel / norm, bias))
    return jax.tree.map(jnp.asarray, (tuple(layers), 0.3 + rng.normal(size=(2, *SHAPE))))


def exact_log_det(layers, x):
    """log|det d(x + g(x))/dx| by autodiff, differentiable itself."""

    def flat(v):
        return v + lipschitz.evaluate(layers, v.reshape(1, *SHAPE))[0].reshape(-1)

    return jax.vmap(lambda x: jnp.linalg.slogdet(jax.jacrev(flat)(x.reshape(-1)))[1])(x)


def estimate(layers, x, key):
    probe_key, terms_key = jax.random.split(key)
    probe = power_series.draw_probe(probe_key, x.shape, x.dtype)
    return residual_and_log_det(layers, x, probe, power_series.draw_terms(terms_key))


def assert_mean(total, squares, n, expected, sigmas=5.0):
    mean = total / n
    error = jnp.sqrt(jnp.maximum(squares / n - mean**2, 0) / n)
    assert jnp.all(jnp.abs(mean - expected) < sigmas * error + 1e-9)


@pytest.mark.slow
def test_log_det_and_its_gradient_are_unbiased():
    """Against the gradient of the exact log-determinant, in parameters and input alike."""
    with jax.enable_x64(True):
        layers, x = block()
        weights = jnp.array([1.0, -0.5])  # one cotangent an image, as a loss would give them

        def exact(arguments):
            value = exact_log_det(*arguments)
            return jnp.vdot(weights, value), value

        (_, value), gradient = jax.jit(jax.value_and_grad(exact, has_aux=True))((layers, x))

        def one(key):
            def objective(arguments):
                value = estimate(*arguments, key)[1]
                return jnp.vdot(weights, value), value

            (_, value), gradient = jax.value_and_grad(objective, has_aux=True)((layers, x))
            return value, gradient

        n = 4000
        draws = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=200))(
            jax.random.split(jax.random.key(2), n)
        )
        assert float(jnp.min(jnp.abs(value))) > 0.1
        for estimates, expected in zip(
            jax.tree.leaves(draws), jax.tree.leaves((value, gradient)), strict=True
        ):
            assert_mean(estimates.sum(0), (estimates**2).sum(0), n, expected)
            mean = estimates.mean(0)
            if jnp.linalg.norm(expected) > 0.1:  # and not only because the errors are large
                cosine = jnp.vdot(mean, expected) / (
                    jnp.linalg.norm(mean) * jnp.linalg.norm(expected)
                )
                assert cosine > 0.95


@pytest.mark.slow
def test_the_gradient_through_z_is_the_ordinary_one():
    with jax.enable_x64(True):
        layers, x = block()
        weights = jax.random.normal(jax.random.key(3), x.shape)
        ours = jax.jit(jax.grad(lambda a: jnp.vdot(weights, estimate(*a, jax.random.key(4))[0])))(
            (layers, x)
        )
        expected = jax.jit(jax.grad(lambda a: jnp.vdot(weights, a[1] + lipschitz.evaluate(*a)[0])))(
            (layers, x)
        )
        chex.assert_trees_all_close(ours, expected, rtol=1e-10)


def initialise(module, x, method="__call__"):
    rngs = {"params": jax.random.key(0), "probe": jax.random.key(1)}
    return jax.jit(functools.partial(module.init, method=method))(rngs, x)


def test_a_step_without_estimation_has_the_exact_log_det_and_with_it_comes_close():
    x = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    exact = ResidualStep(8, probes=math.prod(SHAPE))
    variables = initialise(exact, x, "forward_and_log_det")
    run = jax.jit(
        lambda step, key: step.apply(
            variables, x, method="forward_and_log_det", rngs={"probe": key}
        )[1],
        static_argnums=0,
    )
    # The mean over so many keys; all images share their probes, so the errors are correlated.
    step = ResidualStep(8, terms=40)
    keys = jax.random.split(jax.random.key(2), 2000)
    estimates = jax.vmap(lambda key: run(step, key))(keys)
    assert_mean(estimates.sum(0), (estimates**2).sum(0), 2000, run(exact, keys[0]))


def toy():
    """Images of nearly one brightness each."""
    key = jax.random.key(0)
    shared = jax.random.normal(jax.random.fold_in(key, 0), (64, 1, 1, 1))
    return 0.5 + 0.3 * jnp.tanh(shared + 0.3 * jax.random.normal(key, (64, 4, 4, 1)))


@functools.cache
def moved():
    """The variables of a flow away from its start, and the toy's images."""
    x = toy()
    variables = initialise(FLOW, x)
    return variables | {"params": small.moved(variables["params"], 0.1)}, x


@functools.cache
def trained():
    """A flow before and after a few steps on a toy: variables, losses, the images."""
    key, x = jax.random.key(0), toy()
    variables = initialise(FLOW, x)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))

    def loss(params, state, key):
        value, state = FLOW.apply(
            {"params": params, **state},
            x,
            train=True,
            method="log_prob",
            rngs={"probe": key},
            mutable=["lipschitz"],
        )
        return -jnp.mean(value), state

    @jax.jit
    def step(carry, key):
        params, state, opt_state = carry
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params, state, key)
        updates, opt_state = optimiser.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), state, opt_state), value

    params = variables["params"]
    carry = (params, {"lipschitz": variables["lipschitz"]}, optimiser.init(params))
    (params, state, _), losses = jax.lax.scan(step, carry, jax.random.split(key, 60))
    return variables, {"params": params, **state}, losses, x


def evaluate(flow, variables, key, x):
    return flow.apply(variables, x, method="log_prob", rngs={"probe": key})


RUN = jax.jit(evaluate, static_argnums=0)


@pytest.mark.slow
def test_training_raises_the_evaluated_likelihood_and_its_value_estimates_it():
    start, variables, losses, x = trained()
    # All images share their probes: only a mean over keys is free of these.
    keys = jax.random.split(jax.random.key(5), 40)
    before, after = (np.mean([RUN(FLOW, v, key, x) for key in keys]) for v in (start, variables))
    assert after > before + 3.0
    # The training loss is an unbiased draw of what evaluation gives, not a surrogate's value.
    assert abs(float(jnp.mean(losses[:3])) + before) < 1.0
    assert abs(float(jnp.mean(losses[-10:])) + after) < 1.0


@pytest.mark.slow
def test_every_block_keeps_its_lipschitz_bound_after_training():
    _, variables, _, _ = trained()
    h, w, c = 2, 2, 4
    nets = {kind: tree["level_0"]["net"] for kind, tree in jax.device_get(variables).items()}
    layers_of = jax.jit(lambda net: lipschitz.LipschitzNet(8).apply(net, (h, w, c)))
    for block in range(FLOW.depth):
        product, channels = 1.0, c
        layers = layers_of(jax.tree.map(operator.itemgetter(block), nets))
        for layer in layers:
            product *= operator_norm(layer.kernel, (h, w, channels))
            channels = layer.kernel.shape[-1]
        assert product < 1.001 * lipschitz.COEFFICIENT ** len(layers)


@pytest.mark.slow
def test_the_inverse_inverts_after_training():
    _, variables, _, x = trained()
    forward = jax.jit(
        lambda x: FLOW.apply(
            variables, x, method="forward_and_log_det", rngs={"probe": jax.random.key(0)}
        )
    )
    back = jax.jit(
        lambda z: FLOW.apply(
            variables, z, method="inverse_and_log_det", rngs={"probe": jax.random.key(0)}
        )
    )
    z, log_det = forward(x)
    again, inverse_log_det = back(z)
    np.testing.assert_allclose(again, x, atol=2e-5)
    np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("other", [0.0, -1e7, np.inf, np.nan])
def test_an_image_is_found_again_whatever_is_beside_it(other):
    variables, x = moved()

    def apply(x, method):
        method = getattr(ResidualFlow, method)
        return FLOW.apply(variables, x, method=method, rngs={"probe": jax.random.key(0)})[0]

    z = jax.jit(functools.partial(apply, method="forward_and_log_det"))(x)
    back = jax.jit(functools.partial(apply, method="inverse_and_log_det"))
    beside = jnp.concatenate([jnp.full_like(z[:1], other), z])
    np.testing.assert_allclose(back(beside)[1:], x, atol=2e-5)


def test_evaluation_is_deterministic_for_a_key_and_free_of_the_batch():
    variables, x = moved()
    key = jax.random.key(7)
    values = RUN(FLOW, variables, key, x)
    np.testing.assert_array_equal(values, RUN(FLOW, variables, key, x))
    assert jnp.any(values != RUN(FLOW, variables, jax.random.key(8), x))
    alone = jax.jit(Flow.log_prob)
    for i in (0, 5):
        found = alone(bind(FLOW, variables), key, x[i : i + 1])[0]
        np.testing.assert_allclose(found, values[i], rtol=1e-5)


@pytest.mark.slow
def test_its_variance_falls_with_the_probes():
    _, variables, _, x = trained()
    keys = jax.random.split(jax.random.key(0), 40)
    run = jax.jit(jax.vmap(evaluate, (None, None, 0, None)), static_argnums=0)
    one, four = (np.std(run(flow, variables, keys, x), 0, ddof=1) for flow in (FLOW, FOUR_PROBES))
    # A standard deviation from 40 draws has a relative error of 11%; the ratio is 2.
    np.testing.assert_array_less(np.abs(one / four / 2.0 - 1.0), 0.6)


@pytest.mark.slow
def test_more_terms_change_little():
    _, variables, _, x = trained()
    key = jax.random.key(0)
    values = {n: RUN(FLOW.copy(terms=n), variables, key, x) for n in (1, 20, 60)}
    assert float(jnp.max(jnp.abs(values[20] - values[60]))) < 0.01
    assert float(jnp.max(jnp.abs(values[1] - values[60]))) > 0.05


@pytest.mark.slow
def test_a_perturbed_image_has_a_finite_density_and_gradient():
    _, variables, _, x = trained()
    noisy = x + 0.5 * jax.random.normal(jax.random.key(9), x.shape)
    key = jax.random.key(0)
    assert jnp.all(jnp.isfinite(RUN(FLOW, variables, key, noisy)))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(evaluate(FLOW, variables, key, x))))(noisy)
    assert jnp.all(jnp.isfinite(gradient))


def test_an_unbiased_density_has_the_gradients_of_the_whole_series():
    """As published flows are evaluated, and as detectors ask: by the image, by the parameters."""
    variables, x = moved()
    x, shared = x[:4], {k: v for k, v in variables.items() if k != "params"}

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(flow, key):
        def total(params, x):
            return jnp.sum(evaluate(flow, {"params": params, **shared}, key, x))

        return jax.grad(total, (0, 1))(variables["params"], x)

    def mean(flow):
        keys = jax.random.split(jax.random.key(3), 300)
        each = np.float64([ravel_pytree(gradients(flow, key))[0] for key in keys])
        return each.mean(0), each.std(0) / np.sqrt(len(each))

    (found, error), (expected, other) = mean(FLOW.copy(unbiased=True, terms=3)), mean(FLOW)
    bound = 6 * np.hypot(error, other) + 1e-3 * (1 + np.abs(expected))
    np.testing.assert_array_less(np.abs(found - expected), bound)


def test_it_lowers_for_other_platforms():
    variables, x = moved()
    program = jax.jit(functools.partial(evaluate, FLOW))
    exported = jax.export.export(program, platforms=("cuda", "tpu"))(
        variables, jax.random.key(0), x
    )
    assert exported.platforms == ("cuda", "tpu")


def test_compilation_does_not_grow_with_the_depth():
    x = jnp.zeros((1, 4, 4, 1))

    def size(depth):
        flow = FLOW.copy(depth=depth)
        rngs = {"params": jax.random.key(0), "probe": jax.random.key(1)}
        variables = jax.eval_shape(flow.init, rngs, x)
        return len(
            jax.jit(functools.partial(evaluate, flow)).lower(variables, rngs["probe"], x).as_text()
        )

    assert size(16) < 1.02 * size(2)


def test_sides_that_cannot_be_squeezed_are_refused():
    with pytest.raises(InputError, match="3 levels need sides divisible by 8"):
        ResidualFlow((28, 28, 1), levels=3)
