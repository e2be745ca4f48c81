"""A flow is one pytree: static architecture, variables as leaves, and it knows its images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ecood import encoders, flows
from ecood.errors import InputError
from ecood.flows.logit import Logit
from ecood.splits import remember
from tests import small
from tests.baselines import tiny

KEY = jax.random.key(0)
X = np.float32(np.random.default_rng(0).uniform(size=(3, *tiny.SHAPE)))


def score(flow, key, x):
    return flow.log_prob(key, x)


def test_a_function_and_its_variables_make_a_flow_in_one_line():
    flow = flows.Flow(tiny.log_prob, tiny.gaussian().variables)
    np.testing.assert_array_equal(flow.log_prob(KEY, X), tiny.log_prob(flow.variables, KEY, X))
    assert not flow.has_latent and flow.image_shape is None and flow.architecture is None
    with pytest.raises(InputError, match="this flow has no forward_and_log_det; give it one"):
        flow.forward_and_log_det(KEY, X)
    flow = flows.Flow(tiny.log_prob, flow.variables, tiny.forward_and_log_det)
    assert flow.has_latent
    z, log_det = flow.forward_and_log_det(KEY, X)
    assert z.shape == (3, tiny.D) and log_det.shape == (3,)


def test_a_bound_module_has_its_shape_its_latent_and_its_architecture():
    flow = tiny.glow()
    assert flow.has_latent and flow.image_shape == tiny.SHAPE
    assert flow.architecture["kind"] == "Glow"
    assert flow.architecture["attributes"]["image_shape"] == tiny.SHAPE
    z, log_det = jax.jit(flows.Flow.forward_and_log_det)(flow, KEY, X)
    expected = log_det - 0.5 * np.sum(z**2, axis=1) - 0.5 * tiny.D * np.log(2 * np.pi)
    np.testing.assert_allclose(jax.jit(score)(flow, KEY, X), expected, rtol=1e-5)


def test_its_leaves_are_its_variables_and_the_images_that_it_remembers():
    flow = tiny.gaussian()
    assert len(jax.tree.leaves(flow)) == 2
    known = flow.replace(trained_on=remember(tiny.images(5)))
    assert len(jax.tree.leaves(known)) == 3
    doubled = jax.tree.map(lambda leaf: 2 * leaf, flow)
    np.testing.assert_array_equal(doubled.variables["mean"], 2 * flow.variables["mean"])
    assert doubled.density is flow.density


def test_two_loads_of_one_file_and_new_variables_share_the_compiled_program(tmp_path):
    path = tmp_path / "flow.safetensors"
    flow = tiny.glow().replace(trained_on=remember(tiny.images(5)))
    flows.save(path, flow)
    run = jax.jit(score)
    first = run(flows.load(path), KEY, X)
    np.testing.assert_allclose(first, run(flow, KEY, X), rtol=1e-6)
    again, other = flows.load(path), tiny.glow(1).replace(trained_on=flow.trained_on)
    with small.programs() as made:
        np.testing.assert_array_equal(run(again, KEY, X), first)
        assert np.abs(np.asarray(run(other, KEY, X)) - np.asarray(first)).max() > 0
    assert made == []


def test_gradients_are_taken_in_the_variables():
    flow = tiny.gaussian()
    gradient = jax.grad(lambda flow: jnp.sum(flow.log_prob(KEY, X)))(flow)
    expected = ((X.reshape(3, -1) - 0.45) / 0.09).sum(axis=0)
    np.testing.assert_allclose(gradient.variables["mean"], expected, rtol=1e-4, atol=1e-4)


class Mine(nn.Module):
    """A density of one's own, with nothing but what is needed."""

    @nn.compact
    def log_prob(self, x):
        scale = self.param("scale", nn.initializers.ones, ())
        return -jnp.sum((x * scale) ** 2, axis=(1, 2, 3))


def test_a_module_of_ones_own_scores_and_cannot_be_saved(tmp_path):
    flow = flows.bind(Mine(), {"params": {"scale": jnp.float32(2.0)}})
    np.testing.assert_allclose(flow.log_prob(KEY, X), -4 * (X**2).sum((1, 2, 3)), rtol=1e-5)
    assert not flow.has_latent and flow.architecture is None
    for own in (flow, tiny.gaussian()):
        with pytest.raises(InputError, match="this flow is a plain function, or a module of your"):
            flows.save(tmp_path / "flow.safetensors", own)
    assert list(tmp_path.iterdir()) == []


def test_the_key_reaches_a_flow_that_estimates():
    flow = flows.Flow(lambda variables, key, x: jax.random.normal(key, x.shape[:1]), {})
    one, again, other = (flow.log_prob(jax.random.key(i), X) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.all(np.asarray(one) != np.asarray(other))


def test_bits_per_dim_of_the_uniform_density_is_eight():
    assert float(flows.bits_per_dim(jnp.zeros(()), (8, 8, 3))) == 8
    half = -8 * 8 * 3 * jnp.log(2.0)
    assert float(flows.bits_per_dim(half, (8, 8, 3))) == pytest.approx(9, abs=1e-5)


def test_samples_are_compiled_once_for_any_key_temperature_and_variables():
    flow = tiny.glow()
    first = flow.sample(KEY, 2)
    other = flow.replace(variables=small.moved(flow.variables, 0.1))
    with small.programs() as made:
        assert flow.sample(jax.random.key(1), 2, 0.5).shape == first.shape
        other.sample(KEY, 2)
    assert made == []


def test_images_of_another_shape_and_sizes_that_make_no_flow_are_refused():
    with pytest.raises(InputError, match=r"the images have shape \[2, 2, 1\], and the flow"):
        tiny.glow().log_prob(KEY, X[:, :2, :2])
    for make, words in (
        (
            lambda: flows.ClassGlow(small.SHAPE, 1, 1, classes=0),
            "classes is 0; expected a whole number",
        ),
        (lambda: flows.Glow(small.SHAPE, 2.5, 1), "depth is 2.5; expected a whole number"),
        (lambda: flows.ResidualFlow(small.SHAPE, 1, 1, probes=0), "probes is 0"),
        (lambda: flows.ResidualFlow(small.SHAPE, 1, 1, terms=0), "terms is 0"),
        (lambda: Logit(0.7), "margin is 0.7; expected a number between 0 and 1/2"),
    ):
        with pytest.raises(InputError, match=words):
            make()


def test_its_parameters_are_those_that_are_trained():
    flow = tiny.glow()
    assert "fixed" in flow.variables
    count = sum(leaf.size for leaf in jax.tree.leaves(flow.variables["params"]))
    assert f"{count:,} parameters" in repr(flow)


def test_what_is_no_linen_module_is_refused_by_its_kind():
    module = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    words = "a Linear was given; expected a linen module{}; of an nnx one make a pure function by"
    with pytest.raises(InputError, match=words.format("")):
        flows.bind(module, {})
    with pytest.raises(InputError, match=words.format(" or a function")):
        encoders.encoder(module)
    with pytest.raises(InputError, match="a function was given; expected a linen module\\.$"):
        flows.bind(lambda x: x, {})
    with pytest.raises(InputError, match="a str was given; expected a linen module or a function"):
        encoders.encoder("mine")
