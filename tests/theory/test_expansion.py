import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import parameterized

from ecood.theory import expansion, quadrature
from tests.theory.laws import (
    COUNT,
    Float64TestCase,
    covariances,
    entropy,
    fisher_information,
    gaussian_entropy,
    gaussian_fisher_information,
    gaussians,
    grid,
    log_probs,
    mixtures,
    perturbed,
    valley,
)


class DeBruijnTest(Float64TestCase):
    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_gaussians(self, dim):
        laws = gaussians(0, dim, low=0.5)
        self.check(laws, gaussian_entropy, gaussian_fisher_information, 1e-4)

    def check(self, laws, entropy, information, step):
        def noisy(variance):
            return perturbed(laws, np.full(COUNT, np.sqrt(variance)))

        slope = (entropy(noisy(0.3 + step)) - entropy(noisy(0.3 - step))) / (2 * step)
        rate = self.variant(expansion.de_bruijn)(information(noisy(0.3)))
        np.testing.assert_allclose(rate, slope, rtol=1e-5)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2)
    def test_mixtures(self, dim):
        where = grid(dim)

        def noisy_entropy(laws):
            return entropy(where, log_probs(laws, where.points))

        self.check(
            mixtures(1, dim), noisy_entropy, lambda law: fisher_information(law, where), 1e-3
        )

    @chex.variants(with_jit=True)
    def test_is_the_entropy_rate_of_constant_noise(self):
        where, log_prob = grid(1), valley()
        rate = self.variant(lambda v: expansion.entropy_rate(where, log_prob, v))(
            np.ones(len(where.points))
        )
        information = jax.jit(lambda: quadrature.fisher_information(where, log_prob))()
        expected = self.variant(expansion.de_bruijn)(information)
        np.testing.assert_allclose(rate, expected, rtol=1e-5)


class HessianTraceTest(Float64TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.matrix, self.x = rng.normal(size=(5, 5)), rng.normal(size=5)
        self.hessian = np.asarray(jax.jit(jax.hessian(self.f))(self.x))

    def f(self, x):
        return jnp.sin(x @ self.matrix @ x) + jnp.sum(x**4)

    @chex.variants(with_jit=True)
    def test_exact(self):
        got = self.variant(lambda x: expansion.hessian_trace(self.f, x))(self.x)
        np.testing.assert_allclose(got, np.trace(self.hessian), rtol=1e-9)

    @chex.variants(with_jit=True)
    def test_hutchinson_within_its_standard_error(self):
        estimate = self.variant(lambda key, x: expansion.hutchinson(key, self.f, x, probes=4000))(
            jax.random.key(0), self.x
        )
        assert abs(estimate.value - np.trace(self.hessian)) < 4 * estimate.error
        off_diagonal = np.sum(self.hessian**2) - np.sum(np.diag(self.hessian) ** 2)
        expected = np.sqrt(2 * off_diagonal / 4000)
        np.testing.assert_allclose(estimate.error, expected, rtol=0.1)

    @chex.variants(with_jit=True)
    def test_hutchinson_is_exact_for_a_diagonal_hessian(self):
        def f(x):
            return jnp.sum(jnp.cos(x))

        estimate = self.variant(lambda key, x: expansion.hutchinson(key, f, x, probes=3))(
            jax.random.key(0), self.x
        )
        np.testing.assert_allclose(estimate.value, -np.sum(np.cos(self.x)), rtol=1e-9)
        np.testing.assert_allclose(estimate.error, 0.0, atol=1e-9)


class ExpandTest(Float64TestCase):
    def setUp(self):
        super().setUp()
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        self.nodes, self.weights = nodes, weights / weights.sum()

    @chex.variants(with_jit=True)
    def test_exact_for_gaussians(self):
        """E log p(x + sigma z) in two dimensions, by Gauss-Hermite over a product of nodes."""
        rng = np.random.default_rng(0)
        covariance = covariances(rng, (), 2, 0.3, 2.0)
        x, sigma = np.array([0.7, -1.1]), 1.7
        z = np.stack(np.meshgrid(self.nodes, self.nodes), axis=-1).reshape(-1, 2)
        log_prob = scipy.stats.multivariate_normal(np.zeros(2), covariance).logpdf
        expected = np.outer(self.weights, self.weights).reshape(-1) @ log_prob(x + sigma * z)
        trace = -np.trace(np.linalg.inv(covariance))
        got = self.variant(expansion.expand)(log_prob(x), trace, sigma)
        np.testing.assert_allclose(got, expected, rtol=1e-9)

    @chex.variants(with_jit=True)
    def test_error_is_of_fourth_order_otherwise(self):
        log_prob, x = valley(distance=1.0), np.array([0.4])
        trace = jax.jit(lambda x: expansion.hessian_trace(log_prob, x))(x)
        many, clean = jax.jit(jax.vmap(log_prob)), jax.jit(log_prob)(x)
        expand = self.variant(expansion.expand)

        def error(sigma):
            log_p = many(x[None] + sigma * self.nodes[:, None])
            return self.weights @ np.asarray(log_p) - expand(clean, trace, sigma)

        assert abs(error(0.02)) < 1e-5
        np.testing.assert_allclose(error(0.04) / error(0.02), 16.0, rtol=0.05)
