import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from laws import (
    COUNT,
    Float64TestCase,
    entropy,
    gaussian_entropy,
    gaussian_perturbed,
    gaussians,
    grid,
    log_probs,
    mixtures,
    perturbed,
)

from ecood.theory import bounds, gaussian, quadrature
from ecood.theory.gaussian import Gaussian
from ecood.theory.mixture import Mixture

SIGMAS = np.linspace(0.0, 1.0, COUNT)


class IndependentSumTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_gaussians(self, dim):
        a, b = gaussians(0, dim), gaussians(1, dim)
        total = Gaussian(a.mean, a.covariance + b.covariance)
        h_a, h_b, h = (gaussian_entropy(law) for law in (a, b, total))
        bound = self.variant(bounds.independent_sum, static_argnums=2)(h_a, h_b, dim)
        assert np.all(h >= bound - 1e-9)
        if dim > 1:
            assert np.all(h > bound + 1e-6)  # strict: these covariances are not proportional

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_tight_for_proportional_covariances(self, dim):
        a = gaussians(0, dim)
        b = a._replace(covariance=a.covariance * jnp.linspace(0.01, 9.0, COUNT)[:, None, None])
        total = Gaussian(a.mean, a.covariance + b.covariance)
        h_a, h_b, h = (gaussian_entropy(law) for law in (a, b, total))
        bound = self.variant(bounds.independent_sum, static_argnums=2)(h_a, h_b, dim)
        np.testing.assert_allclose(bound, h, rtol=1e-9, atol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    def test_mixtures(self):
        a, b = (mixtures(seed, 1) for seed in (2, 3))
        total = Mixture(
            (a.weights[:, :, None] * b.weights[:, None, :]).reshape(COUNT, 9),
            (a.means[:, :, None] + b.means[:, None, :]).reshape(COUNT, 9, 1),
            (a.covariances[:, :, None] + b.covariances[:, None, :]).reshape(COUNT, 9, 1, 1),
        )
        where = grid(1)
        h_a, h_b, h = (entropy(where, log_probs(law, where.points)) for law in (a, b, total))
        bound = self.variant(bounds.independent_sum, static_argnums=2)(h_a, h_b, 1)
        assert np.all(h > bound)


class FixedNoiseTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_gaussians(self, dim):
        q = gaussians(4, dim)
        noisy = gaussian_perturbed(q, SIGMAS)
        bound = self.variant(bounds.fixed_noise, static_argnums=2)(gaussian_entropy(q), SIGMAS, dim)
        assert np.all(gaussian_entropy(noisy) >= bound - 1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_mixtures(self, dim):
        q, where = mixtures(5, dim), grid(dim)
        noisy = perturbed(q, jnp.asarray(SIGMAS))
        clean = entropy(where, log_probs(q, where.points))
        bound = self.variant(bounds.fixed_noise, static_argnums=2)(clean, SIGMAS, dim)
        excess = entropy(where, log_probs(noisy, where.points)) - bound
        np.testing.assert_allclose(excess[0], 0.0, atol=1e-9)  # sigma = 0
        assert np.all(excess[1:] > 0)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_tight_for_white_gaussians(self, dim):
        h = jnp.linspace(-3.0, 3.0, COUNT)
        variance = bounds.entropy_power(h, dim) + SIGMAS**2
        exact = 0.5 * dim * jnp.log(2 * jnp.pi * jnp.e * variance)
        bound = self.variant(bounds.fixed_noise, static_argnums=2)(h, SIGMAS, dim)
        np.testing.assert_allclose(bound, exact, rtol=1e-9, atol=1e-9)
        noise = 0.5 * dim * jnp.log(2 * jnp.pi * jnp.e * SIGMAS[1:] ** 2)
        shannon = bounds.independent_sum(h[1:], noise, dim)
        np.testing.assert_allclose(bound[1:], shannon, rtol=1e-9, atol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    def test_a_law_without_density_keeps_the_entropy_of_the_noise(self):
        bound = self.variant(bounds.fixed_noise, static_argnums=2)(-jnp.inf, 0.2, 3)
        noise = gaussian.entropy(Gaussian(jnp.zeros(3), 0.04 * jnp.eye(3)))
        np.testing.assert_allclose(bound, noise, rtol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_gradients(self, dim):
        bound = self.variant(lambda h, sigma: bounds.fixed_noise(h, sigma, dim))
        for arguments in jnp.array([[0.3, 0.5], [-4.0, 0.1], [1.0, 0.0]]):
            chex.assert_numerical_grads(bound, arguments, order=1, atol=1e-4, rtol=1e-4)


class IndexedNoiseTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_index_that_is_a_label(self, dim):
        """Gaussian components, each with its own noise: H(Y' | I) is known exactly."""
        q, where = mixtures(6, dim), grid(dim)
        white = jnp.eye(dim)[None, None] * q.covariances[:, :, :1, :1]
        sigmas = jnp.asarray(np.random.default_rng(0).uniform(0.0, 1.0, size=(COUNT, 3)))

        def parts(law):
            each = jax.vmap(jax.vmap(gaussian.entropy))
            return each(Gaussian(law.means, law.covariances))

        indexed = self.variant(jax.vmap(lambda w, h, s: bounds.indexed_noise(w, h, s, dim)))
        for law in (q, q._replace(covariances=white)):
            noisy = perturbed(law, sigmas)
            conditional = jnp.sum(law.weights * parts(noisy), axis=1)
            bound = indexed(law.weights, parts(law), sigmas)
            total = entropy(where, log_probs(noisy, where.points))
            assert np.all(total > conditional)
            assert np.all(conditional >= bound - 1e-9)
        np.testing.assert_allclose(bound, conditional, rtol=1e-9, atol=1e-9)  # white: tight

    @chex.variants(with_jit=True, without_jit=True)
    def test_index_that_is_a_function_of_the_point(self):
        """Cells of the line, as of nearest bank items, each with its own noise scale."""
        rng, where = np.random.default_rng(1), quadrature.grid(-10.0, 10.0, 1001, 1)
        step = float(where.cell)
        densities = np.exp(log_probs(mixtures(7, 1), where.points))[:10]
        densities /= densities.sum(axis=1, keepdims=True) * step  # sums to one exactly
        smooth, perturb = jax.jit(quadrature.smooth), jax.jit(quadrature.perturb)

        def entropy_of(density):
            positive = density[density > 0]
            return -np.sum(positive * np.log(positive)) * step

        for density in densities:
            edges = rng.uniform([-2.0, 0.3], [-0.3, 2.0])
            sigmas = rng.uniform(0.1, 1.0, size=3)
            cells = np.digitize(where.axis, edges)[None, :] == np.arange(3)[:, None]
            pieces = cells * density[None, :]
            shares = pieces.sum(axis=1) * step
            inside = np.array([entropy_of(p / s) for p, s in zip(pieces, shares, strict=True)])
            clean = entropy_of(density)
            index_entropy = -np.sum(shares * np.log(shares))
            np.testing.assert_allclose(shares @ inside, clean - index_entropy, rtol=1e-9)

            noisy = sum(smooth(where, p, sigma) for p, sigma in zip(pieces, sigmas, strict=True))
            scale = sigmas[np.digitize(where.axis, edges)]
            np.testing.assert_allclose(noisy, perturb(where, density, scale), atol=1e-10)
            noisy_entropy = entropy_of(noisy)
            mean_log_sigma = shares @ np.log(sigmas)
            chain = (
                noisy_entropy,
                self.variant(bounds.indexed_noise, static_argnums=3)(shares, inside, sigmas, 1),
                self.variant(bounds.indexed_noise_mean, static_argnums=3)(
                    clean, index_entropy, mean_log_sigma, 1
                ),
                bounds.indexed_noise_mean(clean, np.log(3.0), mean_log_sigma, 1),
                bounds.arbitrary_noise(mean_log_sigma, 1),
            )
            assert np.all(np.diff(np.array(chain)) < 1e-12), chain

    @chex.variants(with_jit=True, without_jit=True)
    def test_mean_form_is_tight_for_equal_cells(self):
        """Far and equal white Gaussian cells: the price of the index is H(I), and is paid."""
        dim, count = 3, 4
        shares = jnp.full(count, 0.25)
        inside = gaussian.entropy(Gaussian(jnp.zeros(dim), 0.3 * jnp.eye(dim)))
        sigmas = jnp.full(count, 0.7)
        indexed = bounds.indexed_noise(shares, jnp.full(count, inside), sigmas, dim)
        whole = inside + jnp.log(4.0)  # H(Y) = H(Y | I) + H(I)
        mean = self.variant(bounds.indexed_noise_mean, static_argnums=3)(
            whole, jnp.log(4.0), jnp.log(0.7), dim
        )
        np.testing.assert_allclose(mean, indexed, rtol=1e-9)
        exact = gaussian.entropy(Gaussian(jnp.zeros(dim), (0.3 + 0.49) * jnp.eye(dim)))
        np.testing.assert_allclose(mean, exact, rtol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    def test_gradients(self):
        shares = jnp.array([0.2, 0.5, 0.3])
        bound = self.variant(lambda h, s: bounds.indexed_noise(shares, h, s, 2))
        arguments = (jnp.array([0.5, -1.0, 1.0]), jnp.array([0.1, 0.4, 0.9]))
        chex.assert_numerical_grads(bound, arguments, order=1, atol=1e-4, rtol=1e-4)
        bound = self.variant(lambda h, i, s: bounds.indexed_noise_mean(h, i, s, 2))
        chex.assert_numerical_grads(
            bound, jnp.array([0.5, 0.3, -1.0]), order=1, atol=1e-4, rtol=1e-4
        )


class ArbitraryNoiseTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_holds_for_any_noise_scale(self):
        where = quadrature.grid(-12.0, 12.0, 601, 1)
        densities = jnp.exp(log_probs(mixtures(8, 1), where.points))
        rng = np.random.default_rng(2)
        waves, phases = (jnp.asarray(rng.uniform(0.0, 6.0, size=(COUNT, 1))) for _ in range(2))
        sigmas = 0.05 + 0.9 * jnp.sin(waves * where.axis[None, :] + phases) ** 2

        def excess(density, sigma):
            noisy = quadrature.perturb(where, density, sigma)
            mean_log_sigma = jnp.sum(density * jnp.log(sigma)) * where.cell
            bound = bounds.arbitrary_noise(mean_log_sigma, 1)
            return quadrature.entropy(where, quadrature.log(noisy)) - bound

        assert np.all(self.variant(jax.vmap(excess))(densities, sigmas) > 0)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_tight_without_entropy_in_the_point(self, dim):
        bound = self.variant(bounds.arbitrary_noise, static_argnums=1)(jnp.log(0.3), dim)
        exact = gaussian.entropy(Gaussian(jnp.zeros(dim), 0.09 * jnp.eye(dim)))
        np.testing.assert_allclose(bound, exact, rtol=1e-9)
        limit = bounds.indexed_noise_mean(-jnp.inf, 0.0, jnp.log(0.3), dim)
        np.testing.assert_allclose(bound, limit, rtol=1e-9)


class DequantisedEntropyTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_histogram(self):
        """Eight levels in two dimensions: the density is constant on each of 64 squares."""
        levels = 8
        probabilities = np.random.default_rng(3).dirichlet(np.ones(levels**2))
        discrete = -np.sum(probabilities * np.log(probabilities))
        density = probabilities * levels**2  # over [0, 1)^2
        exact = -np.sum(density * np.log(density)) / levels**2
        got = self.variant(bounds.dequantised_entropy, static_argnums=(1, 2))(discrete, 2, levels)
        np.testing.assert_allclose(got, exact, rtol=1e-9)
        assert got >= bounds.dequantised_entropy(0.0, 2, levels)
        np.testing.assert_allclose(bounds.dequantised_entropy(0.0, 1), -np.log(256.0))
