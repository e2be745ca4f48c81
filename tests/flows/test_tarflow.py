import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ecood import flows, models, train
from ecood.baselines.background import background_task
from ecood.errors import InputError
from ecood.flows import TarFlow
from tests import small

MODULE = TarFlow((8, 8, 1), depth=2, layers=1, width=8, patch=4)
KEY = jax.random.key(0)
X = jnp.float32(np.random.default_rng(0).uniform(size=(32, 8, 8, 1)))


@functools.cache
def flow(module=MODULE, amount=0.05):
    variables = jax.jit(module.init)(KEY, X)
    return flows.bind(module, small.moved(variables, amount) if amount else variables)


@functools.cache
def compiled(method, module=MODULE):
    return jax.jit(functools.partial(module.apply, method=method))


@pytest.mark.slow
def test_training_starts_from_the_act_norms_gaussian():
    start = flow(amount=0)
    z, _ = compiled("forward_and_log_det")(start.variables, X)
    assert abs(float(z.mean())) < 1e-3 and 0.99 < float(z.std()) < 1.01
    bits = flows.bits_per_dim(compiled("log_prob")(start.variables, X), X.shape[1:])
    np.testing.assert_allclose(bits, 8.0, atol=1.0)


def order():
    """The pixels of an 8 x 8 image in the order of the first block: patch after patch."""
    places = np.arange(64).reshape(1, 2, 4, 2, 4).transpose(0, 1, 3, 2, 4)
    return places.reshape(-1)


@functools.partial(jax.jit, static_argnums=0)
def jacobian(module, variables):
    """Of the latent of one image by its pixels."""

    def latent(x):
        z, _ = module.apply(variables, x.reshape(1, 8, 8, 1), method="forward_and_log_det")
        return z[0]

    return jax.jacrev(latent)(X[0].reshape(-1))


@pytest.mark.parametrize("depth", [1, 2])
def test_blocks_are_autoregressive_in_alternating_order(depth):
    """A pixel's latent depends on its predecessors, and after two blocks on all pixels."""
    module = MODULE.copy(depth=depth)
    found = jacobian(module, flow(module).variables)[order()][:, order()]
    above = found[np.triu_indices(64, 1)]
    if depth == 1:
        np.testing.assert_array_equal(above, 0.0)
        assert np.mean(found[np.tril_indices(64)] != 0) > 0.95
    else:
        assert np.mean(above != 0) > 0.95


def test_the_map_adds_up_to_the_density_and_is_where_the_pixels_are():
    nats = compiled("log_prob_map")(flow().variables, X)
    assert nats.shape == (32, 8, 8) and nats.dtype == jnp.float32
    np.testing.assert_allclose(
        nats.sum((1, 2)), compiled("log_prob")(flow().variables, X), rtol=1e-5, atol=1e-3
    )
    start = flow(amount=0)  # no pixel depends on another
    change = np.abs(
        compiled("log_prob_map")(start.variables, X.at[:, 5, 2].set(0.001))
        - compiled("log_prob_map")(start.variables, X)
    )
    assert np.all(change[:, 5, 2] > 1)
    change[:, 5, 2] = 0
    np.testing.assert_allclose(change, 0, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_products_are_close():
    half = MODULE.copy(dtype=jnp.bfloat16)
    whole = compiled("log_prob")(flow().variables, X)
    found = compiled("log_prob", half)(flow().variables, X)
    assert found.dtype == jnp.float32 and np.any(found != whole)
    np.testing.assert_allclose(found, whole, rtol=0.02, atol=2.0)
    z, _ = compiled("forward_and_log_det", half)(flow().variables, X)
    again, _ = compiled("inverse_and_log_det", half)(flow().variables, z)
    np.testing.assert_allclose(again, X, atol=2e-4)  # the same roundings there and back


def heavy_tailed():
    """The flow with t = 0.7 to 1.4 in the mean of its blocks, where training starts at 0.02."""
    bias = flow().variables["params"]["blocks"]["bias"]
    n = bias.shape[-1] // 3
    changed = bias.at[:, 2 * n :].add(jnp.linspace(4, 5, n)[None])
    blocks = flow().variables["params"]["blocks"] | {"bias": changed}
    return {"params": flow().variables["params"] | {"blocks": blocks}}


def test_with_heavy_tails_the_log_det_is_the_jacobians_and_the_inverse_undoes_the_flow():
    variables = heavy_tailed()
    z, log_det = compiled("forward_and_log_det")(variables, X)
    assert np.mean(np.abs(z - compiled("forward_and_log_det")(flow().variables, X)[0])) > 0.1
    expected = np.linalg.slogdet(jacobian(MODULE, variables))[1]
    np.testing.assert_allclose(log_det[0], expected, rtol=1e-5)
    x, back = compiled("inverse_and_log_det")(variables, z)
    np.testing.assert_allclose(x, X, atol=1e-5)
    np.testing.assert_allclose(back, -log_det, rtol=1e-4)


def test_heavy_tails_find_what_is_far_out_likelier():
    far = X.at[:, 0, 0].add(2.0)
    light, heavy = (
        np.mean(compiled("log_prob")(variables, X) - compiled("log_prob")(variables, far))
        for variables in (flow().variables, heavy_tailed())
    )
    assert 0 < heavy < 0.1 * light


def test_it_lowers_for_all_platforms():
    exported = jax.export.export(compiled("log_prob_map"), platforms=("cpu", "cuda", "tpu"))(
        flow().variables, X
    )
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_the_program_does_not_grow_with_depth():
    def size(depth):
        module = MODULE.copy(depth=depth)
        variables = jax.eval_shape(module.init, KEY, X)
        return len(jax.jit(module.apply).lower(variables, X).as_text())

    assert size(16) < 1.05 * size(2)


def test_sizes_that_make_no_flow_are_refused():
    with pytest.raises(InputError, match="patches of 4 x 4 pixels do not fill images of 9 x 8;"):
        TarFlow((9, 8, 1))
    with pytest.raises(InputError, match="width is 8 and heads is 3; expected a multiple"):
        TarFlow((8, 8, 1), width=8, heads=3)
    with pytest.raises(InputError, match="depth is 0; expected a whole number, 1 or more"):
        TarFlow((8, 8, 1), depth=0)


@pytest.mark.parametrize("kind", [flows.TarFlow, flows.Jet])
def test_the_matrices_of_hidden_layers_are_named(kind):
    module = kind((8, 8, 1), depth=2, width=8)
    params = models.template(module, jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))["params"]
    flat = traverse_util.flatten_dict(module.matrices(params))
    assert set(flat) == set(traverse_util.flatten_dict(params))
    hidden = {path[-2] for path, told in flat.items() if told}
    within = {"context"} if kind is flows.TarFlow else set()
    assert hidden == {"embed", *(f"Linear_{i}" for i in range(4))} | within
    for task in (train.flow_task(module), background_task(module, 0.1, 0.0)):
        assert "Muon" in task.name and task.matrices(params) == module.matrices(params)
