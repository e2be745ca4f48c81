import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from ecood import flows
from ecood.flows import ClassGlow
from ecood.train import TrainConfig, fit_flow
from tests import small

MODULE = ClassGlow((4, 4, 1), depth=2, levels=2, width=8, classes=3)
LOG_PROB = jax.jit(flows.Flow.log_prob)
KEY = jax.random.key(0)


@functools.cache
def flow(module=MODULE, amount=0.3):
    x = jax.random.uniform(KEY, (64, *module.image_shape))
    variables = jax.jit(module.init)(jax.random.key(1), x)
    return flows.bind(module, variables | {"params": small.moved(variables["params"], amount)})


def of_class(k):
    """One class alone."""
    params = {
        name: leaf[k : k + 1] if name.startswith(("mean_", "log_scale_")) else leaf
        for name, leaf in flow().variables["params"].items()
    }
    return flows.bind(MODULE.copy(classes=1), flow().variables | {"params": params})


def test_its_density_is_the_mean_of_its_classes_densities():
    x = jax.random.uniform(jax.random.key(2), (5, 4, 4, 1))
    given = np.stack([LOG_PROB(of_class(k), KEY, x) for k in range(3)])
    assert np.all(np.ptp(given, axis=0) > 0.1)
    expected = np.logaddexp.reduce(given, axis=0) - np.log(3)
    np.testing.assert_allclose(LOG_PROB(flow(), KEY, x), expected, rtol=1e-5)


def test_its_samples_have_its_density():
    """E[q(x) / p(x)] = 1 for x ~ p and a narrower normalised q, within five standard errors."""
    narrow = flow(MODULE.copy(image_shape=(2, 2, 1), levels=1), 0.1)
    sample = jax.jit(functools.partial(narrow.density.apply, method="sample"), static_argnums=2)
    x = sample(narrow.variables, jax.random.key(3), 20_000)
    assert x.shape == (20_000, 2, 2, 1) and x.dtype == jnp.float32
    flat = np.float64(x).reshape(-1, 4)
    q = scipy.stats.multivariate_normal(np.median(flat, 0), 0.3 * np.cov(flat.T))
    ratio = np.exp(q.logpdf(flat) - np.float64(LOG_PROB(narrow, KEY, x)))
    error = ratio.std() / np.sqrt(len(ratio))
    assert error < 0.05
    assert abs(ratio.mean() - 1) < 5 * error


def test_it_is_saved_and_read_and_has_no_latent(tmp_path):
    flows.save(tmp_path / "flow.safetensors", flow())
    again = flows.load(tmp_path / "flow.safetensors")
    assert again.density == MODULE and not again.has_latent
    x = jax.random.uniform(jax.random.key(2), (5, 4, 4, 1))
    np.testing.assert_array_equal(LOG_PROB(again, KEY, x), LOG_PROB(flow(), KEY, x))


def test_classes_grow_apart_where_it_is_trained_without_labels():
    """Of dark and bright images; equal means would have equal gradients at every step."""
    half = small.images(60, shape=(4, 4, 1)) // 8
    images = np.concatenate([half, 255 - half])
    module = ClassGlow((4, 4, 1), depth=1, levels=1, width=4, classes=2)
    config = TrainConfig(steps=150, batch_size=16, learning_rate=0.02, warmup=1, eval_every=150)
    trained, _ = fit_flow(module, images, config)
    dark, bright = trained.variables["params"]["mean_0"]
    assert np.abs(dark - bright).max() > 1
