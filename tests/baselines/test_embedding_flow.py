import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import baselines, encoders, memory
from ecood.baselines.embedding_flow import VectorFlow
from ecood.detector import scores
from ecood.splits import Split
from tests import small
from tests.baselines import tiny

KEY = jax.random.key(3)


@pytest.mark.parametrize("d", [2, 5, 8])
def test_the_log_determinant_is_that_of_the_jacobian(d):
    module, x = VectorFlow(depth=3, width=8), jax.random.normal(KEY, (4, d))
    variables = small.moved(jax.jit(module.init)(KEY, x), 0.3)

    def forward(x):
        return module.apply(variables, x, method="forward_and_log_det")

    z, log_det = jax.jit(forward)(x)
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda row: forward(row[None])[0][0])))(x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobians)[1], rtol=1e-4, atol=1e-4)
    normal = -0.5 * np.sum(np.asarray(z) ** 2, axis=1) - 0.5 * d * np.log(2 * np.pi)
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), normal + log_det, rtol=1e-4)


@pytest.mark.slow
def test_a_density_that_is_no_gaussian_is_learned():
    """Embeddings on an arc of the circle: images in its middle are likelier than in its ends."""

    def embed(images):
        angle = images[:, 0, 0, 0].astype(jnp.float32) / 255 * jnp.pi
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), 0.1 + 0 * angle], axis=1)

    rng = np.random.default_rng(0)
    lean = rng.beta(0.3, 0.3, 3000)  # the ends are likelier than the middle
    images = rng.integers(0, 256, (3000, 4, 4, 1)).astype(np.uint8)
    images[:, 0, 0, 0] = 255 * lean
    encoder = encoders.encoder(embed, name="arc")
    split = Split(images[:2500], images[2500:], images[:0])
    asked = np.zeros((3, 4, 4, 1), np.uint8)
    asked[:, 0, 0, 0] = 5, 128, 250
    found = {}
    for make in (baselines.embedding_flow, baselines.embedding_gaussian):
        detector = make(encoder)
        state = detector.fit(KEY, split)
        found[make.__name__] = [
            scores(detector, state, KEY, x).mean() for x in (split.held_out, asked[1:2])
        ]
    flow, gaussian = found["embedding_flow"], found["embedding_gaussian"]
    assert flow[0] < gaussian[0] - 0.3  # nats an image, held out
    assert flow[1] > flow[0] + 1  # the middle is odd


@pytest.mark.slow
def test_it_is_the_gaussian_where_the_couplings_do_nothing(monkeypatch):
    monkeypatch.setattr(sys.modules[VectorFlow.__module__], "LEADING", 10)
    encoder, split, images = small.encoder(channels=1), tiny.split(100), tiny.images(6, seed=2)
    assert memory.build(encoder, images).shape[1] > 20
    flow, gaussian = (
        baselines.embedding_flow(encoder, steps=25),
        baselines.embedding_gaussian(encoder),
    )
    state = flow.fit(KEY, split)
    identity = state._replace(variables=jax.tree.map(jnp.zeros_like, state.variables))
    expected = scores(gaussian, gaussian.fit(KEY, split), KEY, images)
    np.testing.assert_allclose(scores(flow, identity, KEY, images), expected, rtol=1e-3)
