"""The two ends of lambda: the score ranks as the likelihood, then as the similarity alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ecood.perturb import noise_scale
from ecood.theory import expansion, gaussian
from tests.theory.laws import Float64TestCase, valley, white


class NoiseLimitsTest(Float64TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.x = rng.permutation(np.linspace(-3.0, 3.0, 30) + 0.05)
        self.similarity = rng.permutation(np.linspace(-0.5, 0.9, 30))
        self.nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        self.weights = weights / weights.sum()

    def scores(self, log_prob, scale):
        """-E_z log p(x + sigma z) with SPEM's sigma = scale (1 - s), by Gauss-Hermite."""

        def score(x, similarity):
            at = x + noise_scale(similarity, scale) * self.nodes
            return -self.weights @ jax.vmap(log_prob)(at[:, None])

        return jax.jit(jax.vmap(score))(self.x, self.similarity)

    @chex.variants(with_jit=True)
    def test_small_and_large_noise(self):
        log_prob = valley(distance=1.0, scale=0.8)
        likelihood = np.argsort(-jax.vmap(log_prob)(self.x[:, None]))
        similarity = np.argsort(-self.similarity)
        rank = self.variant(lambda scale: jnp.argsort(self.scores(log_prob, scale)))
        np.testing.assert_array_equal(rank(1e-3), likelihood)
        np.testing.assert_array_equal(rank(100.0), similarity)
        middle = rank(1.0)
        assert np.any(middle != likelihood) and np.any(middle != similarity)

    @chex.variants(with_jit=True)
    def test_gaussian_model_adds_the_squared_noise_scale(self):
        """The whole effect is lambda^2 (1 - s)^2 tr(precision) / 2, and so is the gap's."""
        law, scale = white(1, 0.49), 0.7

        def log_prob(x):
            return gaussian.log_prob(law, x)

        clean = jax.jit(jax.vmap(log_prob))(self.x[:, None])
        trace, sigmas = -1 / 0.49, scale * (1 - self.similarity)
        expected = self.variant(expansion.expand)(np.asarray(clean), trace, sigmas)
        np.testing.assert_allclose(-self.scores(log_prob, scale), expected, rtol=1e-9)
