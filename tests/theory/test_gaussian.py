import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import parameterized
from laws import Float64TestCase, first, gaussians

from ecood.theory import bounds, gaussian, quadrature
from ecood.theory.gaussian import Gaussian


class GaussianTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_entropy_and_log_prob_against_scipy(self, dim):
        p, q = gaussians(0, dim), gaussians(1, dim)
        frozen = [
            scipy.stats.multivariate_normal(mean, covariance)
            for mean, covariance in zip(*map(np.asarray, p), strict=True)
        ]
        entropies = self.variant(jax.vmap(gaussian.entropy))(p)
        np.testing.assert_allclose(entropies, [law.entropy() for law in frozen], rtol=1e-9)
        log_probs = self.variant(jax.vmap(gaussian.log_prob))(p, q.mean)
        expected = [law.logpdf(x) for law, x in zip(frozen, np.asarray(q.mean), strict=True)]
        np.testing.assert_allclose(log_probs, expected, rtol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_closed_forms_against_quadrature(self, dim):
        p, q = (gaussians(seed, dim, low=0.5, high=1.2) for seed in (2, 3))
        grid = quadrature.grid(-12.0, 12.0, 101, dim)

        def closed(p, q):
            return (
                gaussian.entropy(p),
                gaussian.cross_entropy(p, q),
                gaussian.kl(p, q),
                gaussian.fisher_information(p),
            )

        got = self.variant(jax.vmap(closed))(p, q)
        chex.assert_trees_all_close(got, _by_quadrature(p, q, grid), rtol=1e-5, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_cross_entropy_is_entropy_plus_kl(self, dim):
        p, q = gaussians(4, dim), gaussians(5, dim)
        cross = self.variant(jax.vmap(gaussian.cross_entropy))(p, q)
        divergence = self.variant(jax.vmap(gaussian.kl))(p, q)
        total = jax.vmap(gaussian.entropy)(p) + divergence
        np.testing.assert_allclose(cross, total, rtol=1e-9, atol=1e-9)
        assert np.all(divergence > 0)
        np.testing.assert_allclose(jax.vmap(gaussian.kl)(p, p), 0.0, atol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_entropy_power_times_fisher_information_is_at_least_dim(self, dim):
        def product(p):
            power = bounds.entropy_power(gaussian.entropy(p), dim)
            return power * gaussian.fisher_information(p)

        assert np.all(self.variant(jax.vmap(product))(gaussians(6, dim)) >= dim - 1e-9)
        white = Gaussian(jnp.zeros(dim), 0.37 * jnp.eye(dim))
        np.testing.assert_allclose(product(white), dim, rtol=1e-9)
        power = bounds.entropy_power(gaussian.entropy(white), dim)
        np.testing.assert_allclose(power, 0.37, rtol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    def test_perturb_is_the_law_of_the_noisy_draws(self):
        law, n, sigma = first(gaussians(7, 4)), 40_000, 0.8
        noise = np.random.default_rng(0).normal(size=(n, 4))
        draws = np.asarray(gaussian.sample(jax.random.key(0), law, n)) + sigma * noise
        noisy = self.variant(gaussian.perturb)(law, sigma)
        c = np.asarray(noisy.covariance)
        assert np.all(np.abs(draws.mean(axis=0) - law.mean) < 4 * np.sqrt(np.diag(c) / n))
        # The standard error of a sample covariance is sqrt((c_ii c_jj + c_ij^2) / n).
        error = np.sqrt((np.outer(np.diag(c), np.diag(c)) + c**2) / n)
        assert np.all(np.abs(np.cov(draws.T) - c) < 4 * error)


@jax.jit
def _by_quadrature(p, q, grid):
    def integrals(p, q):
        log_p, log_q = (
            jax.vmap(gaussian.log_prob, in_axes=(None, 0))(law, grid.points) for law in (p, q)
        )
        return (
            quadrature.entropy(grid, log_p),
            quadrature.cross_entropy(grid, log_p, log_q),
            quadrature.kl(grid, log_p, log_q),
            quadrature.fisher_information(grid, lambda x: gaussian.log_prob(p, x)),
        )

    return jax.vmap(integrals)(p, q)
