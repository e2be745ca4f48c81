import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import baselines
from ecood.baselines import dimension
from ecood.baselines.dimension import exact_spectrum, images_dimension
from ecood.baselines.intrinsic_dimension import lanczos, local_spectrum, soft_dimension
from ecood.detector import detections, scores
from ecood.flows import Flow
from ecood.splits import as_split
from ecood.statistics import dequantised
from tests.baselines import tiny

KEY = jax.random.key(10)
# A sheet: 24 thick directions, 32 thin ones, 8 in between.
SCALE = np.repeat([0.3, 0.004, 0.05], [24, 32, 8])


def test_the_dimension_of_a_gaussian_is_its_number_of_thick_directions():
    flow = tiny.gaussian(SCALE)
    spectrum = jax.jit(local_spectrum)(flow, KEY, jnp.asarray(tiny.images(5)))
    for scale in (0.001, 0.01, 0.05, 0.1, 1.0):
        expected = np.sum(SCALE**2 / (SCALE**2 + scale**2))
        np.testing.assert_allclose(soft_dimension(spectrum, scale), expected, rtol=2e-2)


def test_the_exact_spectrum_is_that_of_the_jacobian():
    flow, images = tiny.glow(), jnp.asarray(tiny.images(3))
    nodes, weights = jax.jit(exact_spectrum)(flow, KEY, images)

    def latent(x):
        return flow.forward_and_log_det(KEY, x.reshape(1, *tiny.SHAPE))[0][0]

    jacobians = jax.jit(jax.vmap(jax.jacrev(latent)))(dequantised(KEY, images).reshape(3, -1))
    singular = np.linalg.svd(np.float64(jacobians), compute_uv=False)
    np.testing.assert_allclose(nodes, singular**2, rtol=1e-3)
    np.testing.assert_array_equal(weights, np.ones((3, tiny.D)))


@pytest.mark.parametrize("dimension", [2, 5])
def test_the_dimension_of_a_cube_of_images_is_known(dimension):
    """Images that depend on so many independent numbers, each shown in pixels of its own."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 256, (4000, dimension))
    images = np.zeros((4000, tiny.D), np.uint8)
    images[:, :dimension] = numbers
    images = np.unique(images, axis=0)
    rng.shuffle(images)
    found = images_dimension(images.reshape(-1, *tiny.SHAPE))
    np.testing.assert_allclose(found, dimension, rtol=0.12)  # the edges of the cube flatten it


def test_the_dimension_takes_no_copy_of_the_images_and_is_the_same_in_any_blocks(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), np.uint8)
    monkeypatch.setattr(dimension, "MOST_QUERIES", 50)
    whole = images_dimension(images)
    monkeypatch.setattr(dimension, "BLOCK", 64)
    tracemalloc.start()
    found, (_, peak) = images_dimension(images), tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == whole and peak < 4 * images.nbytes
    flat = np.int64(images.reshape(1000, -1))
    squares = ((flat[::20, None] - flat) ** 2).sum(axis=2)
    log_distance = np.log(np.sort(squares, axis=1)[:, 1:21]) / 2
    expected = 1 / np.mean(log_distance[:, -1:] - log_distance[:, :-1])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_model_free_scale_is_where_the_mean_is_the_dimension_of_the_training_images():
    split = tiny.split(400)
    detector = baselines.intrinsic_dimension(tiny.curved(), model_free=True)
    state = detector.fit(KEY, split)
    dimension = images_dimension(split.train)
    assert 1 < dimension < 20  # the images have four coarse values each, and a little texture
    np.testing.assert_allclose(state.mean[1], dimension, rtol=1e-3)
    found = detections(detector, state, KEY, split.held_out)
    np.testing.assert_allclose(found.dimension.mean(), dimension, rtol=1e-3)


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
    spectrum = jax.jit(local_spectrum)(flow, KEY, jnp.asarray(images))
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

    found = jax.jit(lanczos, static_argnums=(0, 2))(product, jnp.float32(probe), 12)
    for function in (np.log, np.sqrt, lambda a: 1 / (1 + a)):
        values, vectors = np.linalg.eigh(matrices)
        seen = np.einsum("bij,bi->bj", vectors, probe) ** 2
        expected = np.sum(seen * function(values), axis=1)
        nodes, weights = map(np.asarray, found)
        np.testing.assert_allclose(np.sum(weights * function(nodes), axis=1), expected, rtol=1e-3)
    np.testing.assert_allclose(np.sum(found[1], axis=1), 12, rtol=1e-5)


def test_lanczos_survives_a_matrix_of_one_eigenvalue():
    nodes, weights = jax.jit(lambda probe: lanczos(lambda v: 3 * v, probe, 4))(jnp.ones((1, 5)))
    assert np.all(np.isfinite(nodes))
    np.testing.assert_allclose(np.sum(weights / (1 + nodes)), 5 / 4, rtol=1e-5)
