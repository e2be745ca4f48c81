import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from laws import (
    COUNT,
    Float64TestCase,
    covariances,
    entropy,
    fisher_information,
    gaussian_fisher_information,
    gaussian_perturbed,
    gaussians,
    grid,
    log_probs,
    mixtures,
    perturbed,
    valley,
)

from ecood.theory import expansion, gaussian, quadrature


class DeBruijnTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_gaussians(self, dim):
        laws = gaussians(0, dim, low=0.5)

        def noisy_entropy(law, variance):
            return gaussian.entropy(gaussian.perturb(law, jnp.sqrt(variance)))

        slope = jax.jit(jax.vmap(jax.grad(noisy_entropy, argnums=1)))(laws, jnp.full(COUNT, 0.3))
        noisy = gaussian_perturbed(laws, jnp.full(COUNT, np.sqrt(0.3)))
        information = gaussian_fisher_information(noisy)
        rate = self.variant(expansion.de_bruijn)(information)
        np.testing.assert_allclose(rate, slope, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_mixtures(self, dim):
        laws, where, step = mixtures(1, dim), grid(dim), 1e-3

        def noisy_entropy(variance):
            noisy = perturbed(laws, jnp.full(COUNT, np.sqrt(variance)))
            return entropy(where, log_probs(noisy, where.points))

        slope = (noisy_entropy(0.3 + step) - noisy_entropy(0.3 - step)) / (2 * step)
        noisy = perturbed(laws, jnp.full(COUNT, np.sqrt(0.3)))
        rate = self.variant(expansion.de_bruijn)(fisher_information(noisy, where))
        np.testing.assert_allclose(rate, slope, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_is_the_entropy_rate_of_constant_noise(self):
        where, log_prob = grid(1), valley()
        rate = self.variant(lambda v: expansion.entropy_rate(where, log_prob, v))(
            jnp.ones(where.points.shape[0])
        )
        expected = expansion.de_bruijn(quadrature.fisher_information(where, log_prob))
        np.testing.assert_allclose(rate, expected, rtol=1e-5)


class HessianTraceTest(Float64TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.matrix, self.x = rng.normal(size=(5, 5)), rng.normal(size=5)
        self.hessian = np.asarray(jax.jit(jax.hessian(self.f))(self.x))

    def f(self, x):
        return jnp.sin(x @ self.matrix @ x) + jnp.sum(x**4)

    @chex.variants(with_jit=True, without_jit=True)
    def test_exact(self):
        got = self.variant(lambda x: expansion.hessian_trace(self.f, x))(self.x)
        np.testing.assert_allclose(got, np.trace(self.hessian), rtol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    def test_hutchinson_within_its_standard_error(self):
        estimate = self.variant(lambda key, x: expansion.hutchinson(key, self.f, x, probes=4000))(
            jax.random.key(0), self.x
        )
        assert abs(estimate.value - np.trace(self.hessian)) < 4 * estimate.error
        off_diagonal = np.sum(self.hessian**2) - np.sum(np.diag(self.hessian) ** 2)
        expected = np.sqrt(2 * off_diagonal / 4000)
        np.testing.assert_allclose(estimate.error, expected, rtol=0.1)

    @chex.variants(with_jit=True, without_jit=True)
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

    @chex.variants(with_jit=True, without_jit=True)
    def test_exact_for_gaussians(self):
        """E log p(x + sigma z) in two dimensions, by Gauss-Hermite over a product of nodes."""
        rng = np.random.default_rng(0)
        law = gaussian.Gaussian(jnp.zeros(2), covariances(rng, (), 2, 0.3, 2.0))
        x, sigma = np.array([0.7, -1.1]), 1.7
        z = np.stack(np.meshgrid(self.nodes, self.nodes), axis=-1).reshape(-1, 2)
        log_p = jax.jit(jax.vmap(lambda z: gaussian.log_prob(law, x + sigma * z)))(z)
        expected = np.outer(self.weights, self.weights).reshape(-1) @ np.asarray(log_p)
        trace = -gaussian.fisher_information(law)
        got = self.variant(expansion.expand)(gaussian.log_prob(law, x), trace, sigma)
        np.testing.assert_allclose(got, expected, rtol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    def test_error_is_of_fourth_order_otherwise(self):
        log_prob, x = valley(distance=1.0), np.array([0.4])
        trace = jax.jit(lambda x: expansion.hessian_trace(log_prob, x))(x)
        many = jax.jit(jax.vmap(log_prob))
        expand = self.variant(expansion.expand)

        def error(sigma):
            log_p = many(x[None] + sigma * self.nodes[:, None])
            return self.weights @ np.asarray(log_p) - expand(log_prob(x), trace, sigma)

        assert abs(error(0.02)) < 1e-5
        np.testing.assert_allclose(error(0.04) / error(0.02), 16.0, rtol=0.05)
