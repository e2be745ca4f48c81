import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import flows
from ecood.errors import InputError
from ecood.flows import Jet
from ecood.flows.jet import JetBlock
from tests import small

MODULE = Jet((8, 8, 1), depth=2, layers=1, width=8, patch=4)
KEY = jax.random.key(0)
X = jnp.float32(np.random.default_rng(0).uniform(size=(32, 8, 8, 1)))


@functools.cache
def flow(module=MODULE, amount=0.05):
    variables = jax.jit(module.init)(KEY, X)
    return flows.bind(module, small.moved(variables, amount) if amount else variables)


@functools.partial(jax.jit, static_argnums=0)
def jacobian(module, variables):
    """Of the latent of one image by its pixels."""

    def latent(x):
        z, _ = module.apply(variables, x.reshape(1, 8, 8, 1), method="forward_and_log_det")
        return z[0]

    return jax.jacrev(latent)(X[0].reshape(-1))


def test_a_flow_at_its_start_gives_each_pixel_its_own_latent():
    """Whatever the order that the blocks leave the pixels in."""
    for depth in (1, 2, 3):
        module = MODULE.copy(depth=depth)
        found = jacobian(module, flow(module, amount=0).variables)
        off = found - jnp.diag(jnp.diag(found))
        assert np.all(np.abs(np.diag(found)) > 0.5) and np.all(np.abs(off) < 1e-5)


def test_the_first_coupling_tells_every_other_pixel_by_the_rest_of_all_patches():
    block = JetBlock(8, 1, 2)
    x = jnp.float32(np.random.default_rng(1).normal(size=(1, 4, 16)))
    carry = x, jnp.zeros_like(x)
    variables = jax.jit(functools.partial(block.init, method="forward_step"))(KEY, carry)
    variables = small.moved(variables, 0.1)
    step = jax.jit(functools.partial(block.apply, method="forward_step"))
    silent = jax.tree.map(jnp.zeros_like, variables["params"]["of_even"]["out"])
    variables["params"]["of_even"]["out"] = silent

    def changed(place):
        other = x.at[0, 0, place].add(1.0)
        found = [step(variables, (each, jnp.zeros_like(x)))[0][0] for each in (x, other)]
        odd, even = jnp.split(jnp.abs(found[1] - found[0])[0] > 1e-6, 2, axis=-1)
        return np.array(odd), np.array(even)

    odd, even = changed(4)
    assert odd.mean() > 0.9 and np.argwhere(even).tolist() == [[0, 2]]
    odd, even = changed(5)
    assert np.argwhere(odd).tolist() == [[0, 2]] and not even.any()


def test_two_blocks_let_every_pixel_depend_on_all():
    assert np.mean(jacobian(MODULE, flow().variables) != 0) > 0.95


def test_the_map_adds_up_to_the_density_and_is_where_the_pixels_are():
    compiled = functools.partial(jax.jit, static_argnames="method")(MODULE.apply)
    nats = compiled(flow().variables, X, method="log_prob_map")
    assert nats.shape == (32, 8, 8) and nats.dtype == jnp.float32
    np.testing.assert_allclose(
        nats.sum((1, 2)), compiled(flow().variables, X, method="log_prob"), rtol=1e-5, atol=1e-3
    )
    start = flow(amount=0).variables  # no pixel depends on another
    moved = compiled(start, X.at[:, 5, 2].set(0.001), method="log_prob_map")
    change = np.abs(moved - compiled(start, X, method="log_prob_map"))
    assert np.all(change[:, 5, 2] > 1)
    change[:, 5, 2] = 0
    np.testing.assert_allclose(change, 0, atol=1e-4)


def test_sampling_takes_one_pass_whatever_the_number_of_pixels():
    text = jax.jit(lambda v, z: MODULE.apply(v, z, method="inverse_and_log_det")).lower(
        flow().variables, X.reshape(32, -1)
    )
    assert text.as_text().count("stablehlo.while") == 1  # over the blocks


@pytest.mark.parametrize(
    ("shape", "patch", "message"),
    [
        ((9, 9, 1), 3, "patches of 3 x 3 pixels with 1 channel have no two halves"),
        ((9, 8, 1), 4, "patches of 4 x 4 pixels do not fill images of 9 x 8;"),
    ],
)
def test_sizes_that_make_no_flow_are_refused(shape, patch, message):
    with pytest.raises(InputError, match=message):
        Jet(shape, patch=patch)
