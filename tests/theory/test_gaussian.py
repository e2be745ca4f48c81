import chex
import jax
import numpy as np
import scipy.stats
from absl.testing import parameterized

from ecood.theory import bounds, gaussian, quadrature
from ecood.theory.gaussian import Gaussian
from tests.theory.laws import (
    Float64TestCase,
    first,
    gaussian_cross_entropy,
    gaussian_fisher_information,
    gaussian_kl,
    gaussians,
    white,
)


class GaussianTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_entropy_and_log_prob_against_scipy(self, dim):
        p, q = gaussians(0, dim), gaussians(1, dim)
        frozen = [
            scipy.stats.multivariate_normal(mean, covariance)
            for mean, covariance in zip(*p, strict=True)
        ]
        entropies = self.variant(jax.vmap(gaussian.entropy))(p)
        np.testing.assert_allclose(entropies, [law.entropy() for law in frozen], rtol=1e-9)
        log_probs = self.variant(jax.vmap(gaussian.log_prob))(p, q.mean)
        expected = [law.logpdf(x) for law, x in zip(frozen, q.mean, strict=True)]
        np.testing.assert_allclose(log_probs, expected, rtol=1e-9)

    @parameterized.parameters(1, 2)
    def test_closed_forms_against_quadrature(self, dim):
        p, q = (gaussians(seed, dim, low=0.5, high=1.2) for seed in (2, 3))
        grid = quadrature.grid(-12.0, 12.0, 101, dim)

        def both(p, q):
            log_p, log_q = (
                jax.vmap(gaussian.log_prob, in_axes=(None, 0))(law, grid.points) for law in (p, q)
            )
            closed = (
                gaussian.entropy(p),
                gaussian.cross_entropy(p, q),
                gaussian.kl(p, q),
                gaussian.fisher_information(p),
            )
            integrals = (
                quadrature.entropy(grid, log_p),
                quadrature.cross_entropy(grid, log_p, log_q),
                quadrature.kl(grid, log_p, log_q),
                quadrature.fisher_information(grid, lambda x: gaussian.log_prob(p, x)),
            )
            return closed, integrals

        got, expected = jax.jit(jax.vmap(both))(p, q)
        chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_cross_entropy_is_entropy_plus_kl(self, dim):
        p, q = gaussians(4, dim), gaussians(5, dim)

        def all_three(p, q):
            divergence = gaussian.kl(p, q)
            return gaussian.cross_entropy(p, q), gaussian.entropy(p) + divergence, divergence

        measure = self.variant(jax.vmap(all_three))
        cross, total, divergence = measure(p, q)
        np.testing.assert_allclose(cross, total, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(cross, gaussian_cross_entropy(p, q), rtol=1e-9)
        np.testing.assert_allclose(divergence, gaussian_kl(p, q), rtol=1e-9)
        assert np.all(divergence > 0)
        np.testing.assert_allclose(measure(p, p)[2], 0.0, atol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_entropy_power_times_fisher_information_is_at_least_dim(self, dim):
        def both(p):
            power = bounds.entropy_power(gaussian.entropy(p), dim)
            return power, gaussian.fisher_information(p)

        p, one = gaussians(6, dim), white(dim, 0.37)
        p = Gaussian(
            *(np.append(leaf, own[None], axis=0) for leaf, own in zip(p, one, strict=True))
        )
        power, information = map(np.asarray, self.variant(jax.vmap(both))(p))
        np.testing.assert_allclose(information, gaussian_fisher_information(p), rtol=1e-9)
        assert np.all(power * information >= dim - 1e-9)
        np.testing.assert_allclose((power[-1], information[-1]), (0.37, dim / 0.37), rtol=1e-9)

    def test_perturb_is_the_law_of_the_noisy_draws(self):
        law, n, sigma = first(gaussians(7, 4)), 40_000, 0.8
        noise = np.random.default_rng(0).normal(size=(n, 4))
        sample = jax.jit(gaussian.sample, static_argnums=2)
        draws = np.asarray(sample(jax.random.key(0), law, n)) + sigma * noise
        noisy = jax.jit(gaussian.perturb)(law, sigma)
        c = np.asarray(noisy.covariance)
        assert np.all(np.abs(draws.mean(axis=0) - law.mean) < 4 * np.sqrt(np.diag(c) / n))
        # The standard error of a sample covariance is sqrt((c_ii c_jj + c_ij^2) / n).
        error = np.sqrt((np.outer(np.diag(c), np.diag(c)) + c**2) / n)
        assert np.all(np.abs(np.cov(draws.T) - c) < 4 * error)
