import jax
import jax.numpy as jnp
import numpy as np

from ecood import baselines
from ecood.baselines.intrinsic_dimension import lanczos, local_spectrum, soft_dimension
from ecood.detector import detections, scores
from ecood.flows import Flow
from ecood.splits import as_split
from tests.baselines import tiny

KEY = jax.random.key(10)
# A sheet: 24 thick directions, 32 thin ones, 8 in between.
SCALE = np.repeat([0.3, 0.004, 0.05], [24, 32, 8])


def test_the_dimension_of_a_gaussian_is_its_number_of_thick_directions():
    flow = tiny.gaussian(SCALE)
    spectrum = local_spectrum(flow, KEY, jnp.asarray(tiny.images(5)))
    for scale in (0.001, 0.01, 0.05, 0.1, 1.0):
        expected = np.sum(SCALE**2 / (SCALE**2 + scale**2))
        np.testing.assert_allclose(soft_dimension(spectrum, scale), expected, rtol=2e-2)


def test_score_is_the_worse_of_likelihood_and_dimension():
    """A flow of two sheets: its latent has the more thick directions the brighter the image."""

    def forward_and_log_det(variables, key, x):
        flat = x.reshape(len(x), -1)
        bright = jax.nn.sigmoid(20 * (jnp.mean(flat, axis=1, keepdims=True) - 0.4))
        bright = jax.lax.stop_gradient(bright)
        scale = jnp.where(jnp.arange(tiny.D)[None] < 16, 0.3, 0.02 + 0.2 * bright)
        return (flat - 0.4) / scale, -jnp.sum(jnp.log(scale), axis=1)

    def log_prob(variables, key, x):
        z, log_det = forward_and_log_det(variables, key, x)
        return log_det - 0.5 * jnp.sum(z**2, axis=1) - 0.5 * tiny.D * jnp.log(2 * jnp.pi)

    flow = Flow(log_prob, {}, forward_and_log_det)
    detector = baselines.intrinsic_dimension(flow)
    rng = np.random.default_rng(0)
    mean = rng.uniform(90, 140, (400, 1, 1, 1))
    id_images = np.clip(mean + 30 * rng.normal(size=(400, *tiny.SHAPE)), 0, 255).astype(np.uint8)
    split = as_split(id_images)
    state = detector.fit(KEY, split)
    cost = scores(baselines.likelihood(flow), flow, KEY, split.held_out)
    np.testing.assert_allclose(state.mean[0], cost.mean(), rtol=1e-3)
    assert abs(float(state.mean[1]) - tiny.D / 2) < 1  # the scale is set on ID images

    images = np.stack([np.full(tiny.SHAPE, v) for v in (92, 115, 140)]).astype(np.uint8)
    cost = scores(baselines.likelihood(flow), flow, KEY, images)
    spectrum = local_spectrum(flow, KEY, jnp.asarray(images))
    dimension = np.asarray(soft_dimension(spectrum, state.scale))
    assert np.all(np.diff(dimension) > 0)
    mean, spread = np.asarray(state.mean), np.asarray(state.spread)
    z = (np.stack([cost, dimension], axis=1) - mean) / spread
    expected = np.maximum(z[:, 0], -z[:, 1])
    found = detections(detector, state, KEY, images)
    np.testing.assert_allclose(found.score, expected, atol=0.02)
    np.testing.assert_allclose(found.dimension, dimension, rtol=1e-3)
    assert expected[0] == -z[0, 1]  # the dark image lies where the sheet is thin


def test_lanczos_is_exact_after_as_many_steps_as_dimensions():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, 12, 12))
    matrices = root @ root.swapaxes(1, 2) + np.eye(12)
    probe = rng.choice([-1.0, 1.0], size=(2, 12))

    def product(vectors):
        return jnp.einsum("bij,bj->bi", jnp.float32(matrices), vectors)

    found = lanczos(product, jnp.float32(probe), 12)
    for function in (np.log, np.sqrt, lambda a: 1 / (1 + a)):
        values, vectors = np.linalg.eigh(matrices)
        seen = np.einsum("bij,bi->bj", vectors, probe) ** 2
        expected = np.sum(seen * function(values), axis=1)
        nodes, weights = map(np.asarray, found)
        np.testing.assert_allclose(np.sum(weights * function(nodes), axis=1), expected, rtol=1e-3)
    np.testing.assert_allclose(np.sum(found[1], axis=1), 12, rtol=1e-5)


def test_lanczos_survives_a_matrix_of_one_eigenvalue():
    nodes, weights = lanczos(lambda v: 3 * v, jnp.ones((1, 5)), 4)
    assert np.all(np.isfinite(nodes))
    np.testing.assert_allclose(np.sum(weights / (1 + nodes)), 5 / 4, rtol=1e-5)
