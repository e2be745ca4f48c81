"""distrax's and TFP's distributions stand where a flow does, and every flow is one of distrax."""

import builtins
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import flows
from ecood.errors import InputError
from ecood.flows.distributions import distribution_class
from tests import small

with warnings.catch_warnings(action="ignore"):
    import distrax
    from tensorflow_probability.substrates import jax as tfp

SHAPE = small.SHAPE
KEY = jax.random.key(0)
MEAN = jnp.full(SHAPE, 0.4)
X = np.float32(small.images(5)) / 256
LOG_PROB = jax.jit(flows.Flow.log_prob)

DISTRIBUTIONS = {
    "distrax": lambda: distrax.Independent(distrax.Normal(MEAN, 0.2), 3),
    "distrax transformed": lambda: distrax.Transformed(
        distrax.Independent(distrax.Normal(jnp.zeros(SHAPE), 1.0), 3),
        distrax.Block(distrax.ScalarAffine(jnp.float32(0.4), jnp.float32(0.2)), 3),
    ),
    "tfp": lambda: tfp.distributions.Independent(tfp.distributions.Normal(MEAN, 0.2), 3),
    "tfp transformed": lambda: tfp.distributions.TransformedDistribution(
        tfp.distributions.Sample(tfp.distributions.Normal(0.0, 0.2), SHAPE),
        tfp.bijectors.Shift(0.4),
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_distribution_is_a_flow(name):
    distribution = DISTRIBUTIONS[name]()
    flow = flows.from_distribution(distribution)
    expected = jax.scipy.stats.norm.logpdf(X, 0.4, 0.2).sum((1, 2, 3))
    np.testing.assert_allclose(flow.log_prob(KEY, X), expected, rtol=1e-4)
    assert flow.image_shape == SHAPE and flow.architecture is None
    assert flow.sample(KEY, 3).shape == (3, *SHAPE)
    again = flows.from_distribution(DISTRIBUTIONS[name]())
    LOG_PROB(flow, KEY, X)
    with small.programs() as made:
        LOG_PROB(again, KEY, X)
    assert made == []


@pytest.mark.parametrize("name", ["distrax", "tfp"])
def test_it_is_scored_and_exported_as_a_flow(name, tmp_path):
    flow, split = flows.from_distribution(DISTRIBUTIONS[name]()), small.split(60)
    own = flows.Flow(lambda v, key, x: jax.scipy.stats.norm.logpdf(x, 0.4, 0.2).sum((1, 2, 3)), {})
    images, options = small.images(9, seed=1), {"noise_strength": 0.3}
    scorer = ecood.score.fit(flow, small.encoder(), split, **options)
    expected = ecood.score.fit(own, small.encoder(), split, **options).detect(images)
    np.testing.assert_allclose(scorer.detect(images).bits, expected.bits, rtol=1e-4)
    scorer.export(tmp_path / "scorer.npz", "cpu")
    found = ecood.score.load_export(tmp_path / "scorer.npz").detect(images)
    np.testing.assert_allclose(found.bits, expected.bits, rtol=1e-4)
    with pytest.raises(InputError, match="fit with made_by="):
        scorer.save(tmp_path / "scorer")


@pytest.mark.parametrize(
    ("distribution", "words"),
    [
        (lambda: distrax.Normal(MEAN, 0.2), r"Normal has the event shape \[\] and the batch shape"),
        (lambda: distrax.Independent(distrax.Normal(MEAN[None], 0.2), 3), r"batch shape \[1\]"),
        (lambda: distrax.Independent(distrax.Normal(MEAN[0], 0.2), 2), r"event shape \[8, 3\]"),
        (lambda: small.flow(), "a Flow was given; expected a distribution"),
        (lambda: Opaque(), "the Opaque is no pytree"),
    ],
)
def test_what_is_no_distribution_of_images_is_refused(distribution, words):
    with pytest.raises(InputError, match=words):
        flows.from_distribution(distribution())


class Opaque:
    event_shape, batch_shape = SHAPE, ()

    def log_prob(self, x):
        return x


SIZES = {"depth": 1, "levels": 1, "width": 8}
MODULES = {
    "Glow": lambda: flows.Glow(SHAPE, **SIZES),
    "ClassGlow": lambda: flows.ClassGlow(SHAPE, **SIZES, classes=3),
    "ResidualFlow": lambda: flows.ResidualFlow(SHAPE, **SIZES),
    "Jet": lambda: flows.Jet(SHAPE, depth=1, width=8, heads=2),
    "TarFlow": lambda: flows.TarFlow(SHAPE, depth=1, width=8, heads=2),
    "PixelCNN": lambda: flows.PixelCNN(SHAPE, depth=1, levels=1, width=8, mixtures=2),
}


LONG = ("ResidualFlow", "TarFlow", "PixelCNN")  # to compile
over = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in MODULES]
)


@functools.cache
def moved(name):
    """A flow of a module that is not the identity, and the distribution that it is."""
    module = MODULES[name]()
    variables = jax.jit(module.init)({"params": KEY, "probe": KEY}, jnp.asarray(X))
    params = small.moved(variables["params"], 0.01)
    flow = flows.bind(module, variables | {"params": params})
    return flow, flow.distribution()


# Compiled: op by op, each flow takes hundreds of programs.
DENSITY = jax.jit(lambda distribution, x: distribution.log_prob(x))
BOTH = jax.jit(
    lambda distribution, seed: distribution.sample_and_log_prob(seed=seed, sample_shape=(2, 3))
)
SAMPLE = jax.jit(lambda distribution, seed: distribution.sample(seed=seed, sample_shape=2))


def test_every_flow_is_in_the_table():
    assert set(MODULES) == set(flows.MODULES)


@over
def test_a_flow_is_a_distribution(name):
    flow, distribution = moved(name)
    assert isinstance(distribution, distrax.Distribution)
    assert distribution.event_shape == SHAPE and distribution.batch_shape == ()
    x, log_prob = BOTH(distribution, jax.random.key(1))
    assert x.shape == (2, 3, *SHAPE) and log_prob.shape == (2, 3)
    small.assert_finite(log_prob)
    expected = LOG_PROB(flow, KEY, x.reshape(6, *SHAPE)).reshape(2, 3)
    tolerance = 1e-4 * np.abs(expected).max()
    # An estimate is the same for the same image, wherever it stands, to what its probes differ.
    exact = name != "ResidualFlow"
    np.testing.assert_allclose(log_prob, expected, atol=tolerance if exact else 5)
    np.testing.assert_allclose(log_prob, DENSITY(distribution, x), rtol=1e-5)
    assert jax.eval_shape(distribution.log_prob, x[0, 0]).shape == ()


@over
def test_seeds_decide_the_samples(name):
    _, distribution = moved(name)
    first, again, other = (SAMPLE(distribution, jax.random.key(seed)) for seed in (7, 7, 8))
    assert first.shape == (2, *SHAPE)
    np.testing.assert_array_equal(again, first)
    assert np.abs(other - first).max() > 0.1


@pytest.mark.slow
def test_a_seed_is_a_number_or_a_key_of_either_kind():
    _, distribution = moved("Glow")
    expected = SAMPLE(distribution, jax.random.key(7))
    for seed in (7, jax.random.PRNGKey(7)):
        np.testing.assert_allclose(
            distribution.sample(seed=seed, sample_shape=2), expected, atol=1e-5
        )
    assert distribution.sample(seed=7).shape == SHAPE
    np.testing.assert_allclose(
        distribution.log_prob(expected), DENSITY(distribution, expected), rtol=1e-4
    )


def test_a_distribution_is_a_flow_is_a_distribution():
    flow = flows.from_distribution(DISTRIBUTIONS["distrax"]())
    again = flows.from_distribution(flow.distribution())
    np.testing.assert_allclose(again.log_prob(KEY, X), flow.log_prob(KEY, X), rtol=1e-6)
    assert again.sample(KEY, 2).shape == (2, *SHAPE)


def test_what_cannot_be_drawn_from_says_so():
    with pytest.raises(InputError, match="does not say the shape of its images"):
        small.gaussian().distribution()
    for flow, temperature in (
        (small.gaussian(), 1),
        (flows.from_distribution(DISTRIBUTIONS["tfp"]()), 0.7),
    ):
        with pytest.raises(InputError, match="cannot be drawn at temperature"):
            flow.sample(KEY, 2, temperature)


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'tensorflow_probability'"), TypeError("None\nmore")]
)
def test_without_distrax_its_distributions_alone_do_not_work(monkeypatch, error):
    """As where the nightly that it stands on is gone, or under `python -OO`."""
    importing = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "distrax":
            raise error
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    distribution_class.cache_clear()
    flow = small.flow(seed=77)
    small.assert_finite(flow.log_prob(jax.random.key(0), X))
    words = r"distrax, .* cannot be imported \((No module.*|None)\); install requirements\.txt"
    with pytest.raises(InputError, match=words):
        flow.distribution()


@pytest.mark.parametrize("shape", [(4, 4, 1), (8, 8, 3), (5, 5, 3), (3, 4, 4)])
def test_images_of_another_shape_are_refused_both_ways(shape):
    """Many a distribution would broadcast them, and tell the density of something else."""
    normal = distrax.Independent(distrax.Normal(jnp.full((4, 4, 3), 0.5), 0.1), 3)
    flow, images = flows.from_distribution(normal), jnp.zeros((2, *shape))
    with pytest.raises(InputError, match="of images of shape"):
        flow.log_prob(KEY, images)
    with pytest.raises(InputError, match="of images of shape"):
        small.flow(shape=(4, 4, 3)).distribution().log_prob(images)
