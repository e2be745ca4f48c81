import chex
import jax
import numpy as np
import pytest
from absl.testing import parameterized

from ecood.theory import bounds, indexed, quadrature
from ecood.theory.gaussian import Gaussian
from ecood.theory.mixture import Mixture
from tests.theory.laws import (
    COUNT,
    Float64TestCase,
    cross_entropy,
    entropy,
    gaussian_entropy,
    gaussians,
    grid,
    line,
    log_probs,
    mixtures,
    perturbed,
    white,
)

SIGMAS = np.linspace(0.0, 1.0, COUNT)


def safe_log(density):
    """-inf where a density is 0, or rounding leaves it a hair below."""
    density = np.asarray(density)
    return np.log(density, out=np.full(density.shape, -np.inf), where=density > 0)


class IndependentSumTest(Float64TestCase):
    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_gaussians(self, dim):
        a, b = gaussians(0, dim), gaussians(1, dim)
        total = Gaussian(a.mean, a.covariance + b.covariance)
        h_a, h_b, h = (gaussian_entropy(law) for law in (a, b, total))
        bound = self.variant(bounds.independent_sum, static_argnums=2)(h_a, h_b, dim)
        assert np.all(h >= bound - 1e-9)
        if dim > 1:
            assert np.all(h > bound + 1e-6)  # strict: these covariances are not proportional

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_tight_for_proportional_covariances(self, dim):
        a = gaussians(0, dim)
        b = a._replace(covariance=a.covariance * np.linspace(0.01, 9.0, COUNT)[:, None, None])
        total = Gaussian(a.mean, a.covariance + b.covariance)
        h_a, h_b, h = (gaussian_entropy(law) for law in (a, b, total))
        bound = self.variant(bounds.independent_sum, static_argnums=2)(h_a, h_b, dim)
        np.testing.assert_allclose(bound, h, rtol=1e-9, atol=1e-9)

    @chex.variants(with_jit=True)
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
    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_gaussians(self, dim):
        q = gaussians(4, dim)
        noisy = perturbed(q, SIGMAS)
        bound = self.variant(bounds.fixed_noise, static_argnums=2)(gaussian_entropy(q), SIGMAS, dim)
        assert np.all(gaussian_entropy(noisy) >= bound - 1e-9)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2)
    def test_mixtures(self, dim):
        q, where = mixtures(5, dim), grid(dim)
        noisy = perturbed(q, SIGMAS)
        clean = entropy(where, log_probs(q, where.points))
        bound = self.variant(bounds.fixed_noise, static_argnums=2)(clean, SIGMAS, dim)
        excess = entropy(where, log_probs(noisy, where.points)) - np.asarray(bound)
        np.testing.assert_allclose(excess[0], 0.0, atol=1e-9)  # sigma = 0
        assert np.all(excess[1:] > 0)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_tight_for_white_gaussians(self, dim):
        h = np.linspace(-3.0, 3.0, COUNT)
        power = self.variant(bounds.entropy_power, static_argnums=1)(h, dim)
        exact = 0.5 * dim * np.log(2 * np.pi * np.e * (np.asarray(power) + SIGMAS**2))
        bound = self.variant(bounds.fixed_noise, static_argnums=2)(h, SIGMAS, dim)
        np.testing.assert_allclose(bound, exact, rtol=1e-9, atol=1e-9)
        noise = np.append(-np.inf, 0.5 * dim * np.log(2 * np.pi * np.e * SIGMAS[1:] ** 2))
        shannon = self.variant(bounds.independent_sum, static_argnums=2)(h, noise, dim)
        np.testing.assert_allclose(bound, shannon, rtol=1e-9, atol=1e-9)

    @chex.variants(with_jit=True)
    def test_a_law_without_density_keeps_the_entropy_of_the_noise(self):
        bound = self.variant(bounds.fixed_noise, static_argnums=2)(-np.inf, 0.2, 3)
        np.testing.assert_allclose(bound, gaussian_entropy(white(3, 0.04)), rtol=1e-9)

    @chex.variants(with_jit=True)
    def test_gradients(self):
        bound = self.variant(lambda h, sigma: bounds.fixed_noise(h, sigma, 4))
        arguments = np.array([0.3, -4.0, 1.0]), np.array([0.5, 0.1, 0.0])
        chex.assert_numerical_grads(bound, arguments, order=1, atol=1e-4, rtol=1e-4)


def parts(law):
    """The entropies of a mixture's components."""
    return gaussian_entropy(Gaussian(law.means, law.covariances))


class IndexedNoiseTest(Float64TestCase):
    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2)
    def test_index_that_is_a_label(self, dim):
        """Gaussian components, each with its own noise: H(Y' | I) is known exactly."""
        q, where = mixtures(6, dim), grid(dim)
        round_ones = np.eye(dim) * q.covariances[:, :, :1, :1]
        sigmas = np.random.default_rng(0).uniform(0.0, 1.0, size=(COUNT, 3))
        bound_of = self.variant(jax.vmap(lambda w, h, s: bounds.indexed_noise(w, h, s, dim)))
        for law in (q, q._replace(covariances=round_ones)):
            noisy = perturbed(law, sigmas)
            conditional = np.sum(law.weights * parts(noisy), axis=1)
            bound = bound_of(law.weights, parts(law), sigmas)
            total = entropy(where, log_probs(noisy, where.points))
            assert np.all(total > conditional)
            assert np.all(conditional >= bound - 1e-9)
        np.testing.assert_allclose(bound, conditional, rtol=1e-9, atol=1e-9)  # white: tight

    def test_index_that_is_a_function_of_the_point(self):
        """Cells of the line, as of nearest bank items, each with its own noise scale."""
        rng, where = np.random.default_rng(1), line(-12.0, 12.0, 1201)
        count, step = 10, where.cell
        densities = np.exp(log_probs(mixtures(7, 1), where.points))[:count]
        densities /= densities.sum(axis=1, keepdims=True) * step  # sums to one exactly
        edges = rng.uniform([-2.0, 0.3], [-0.3, 2.0], size=(count, 2))
        index = np.stack([np.digitize(where.axis, each) for each in edges])
        sigmas = rng.uniform(0.1, 1.0, size=(count, 3))
        log_model = log_probs(mixtures(8, 1), where.points)[0]
        measure = jax.jit(jax.vmap(indexed.terms, in_axes=(None, 0, 0, 0, None)))
        with_empty = np.insert(sigmas, 2, 0.0, axis=1)  # a cell without points counts for nothing
        got = measure(where, densities, index + (index > 1), with_empty, log_model)

        # The same, cell by cell, and noise whose scale is a function of the point.
        smooth = jax.jit(jax.vmap(jax.vmap(quadrature.smooth, (None, 0, 0)), (None, 0, 0)))
        perturb = jax.jit(jax.vmap(quadrature.perturb, (None, 0, 0)))
        pieces = np.where(index[:, None] == np.arange(3)[:, None], densities[:, None], 0.0)
        noisy = np.sum(smooth(where, pieces, sigmas), axis=1)
        scale = np.take_along_axis(sigmas, index, axis=1)
        np.testing.assert_allclose(noisy, perturb(where, densities, scale), atol=1e-10)
        shares = pieces.sum(axis=2) * step
        inside = entropy(where, safe_log(pieces / shares[:, :, None]))
        clean = entropy(where, safe_log(densities))
        index_entropy = -np.sum(shares * np.log(shares), axis=1)
        np.testing.assert_allclose(np.sum(shares * inside, 1), clean - index_entropy, rtol=1e-9)
        mean_log_sigma = np.sum(shares * np.log(sigmas), axis=1)
        expected = indexed.Terms(
            entropy=entropy(where, safe_log(noisy)),
            log_prob=-cross_entropy(where, safe_log(noisy), log_model),
            indexed=np.sum(shares * bounds.fixed_noise(inside, sigmas, 1), axis=1),
            mean=bounds.fixed_noise(clean - index_entropy, np.exp(mean_log_sigma), 1),
            floor=0.5 * np.log(2 * np.pi * np.e) + mean_log_sigma,
        )
        chex.assert_trees_all_close(got, expected, rtol=1e-9, atol=1e-9)
        at_most = bounds.indexed_noise_mean(clean, np.log(3.0), mean_log_sigma, 1)
        chain = np.array([got.entropy, got.indexed, got.mean, at_most, got.floor])
        assert np.all(np.diff(chain, axis=0) < 1e-12), chain

    @chex.variants(with_jit=True)
    def test_mean_form_is_tight_for_equal_cells(self):
        """Far and equal white Gaussian cells: the price of the index is H(I), and is paid."""
        dim, count = 3, 4
        inside = gaussian_entropy(white(dim, 0.3))
        indexed = self.variant(bounds.indexed_noise, static_argnums=3)(
            np.full(count, 0.25), np.full(count, inside), np.full(count, 0.7), dim
        )
        whole = inside + np.log(4.0)  # H(Y) = H(Y | I) + H(I)
        mean = self.variant(bounds.indexed_noise_mean, static_argnums=3)(
            whole, np.log(4.0), np.log(0.7), dim
        )
        np.testing.assert_allclose(mean, indexed, rtol=1e-9)
        exact = gaussian_entropy(white(dim, 0.3 + 0.49))
        np.testing.assert_allclose(mean, exact, rtol=1e-9)

    @chex.variants(with_jit=True)
    def test_gradients(self):
        shares = np.array([0.2, 0.5, 0.3])

        def both(h, s):
            mean = bounds.indexed_noise_mean(h[0], h[2], s[1], 2)
            return bounds.indexed_noise(shares, h, s, 2), mean

        arguments = np.array([0.5, -1.0, 1.0]), np.array([0.1, 0.4, 0.9])
        chex.assert_numerical_grads(self.variant(both), arguments, order=1, atol=1e-4, rtol=1e-4)


class ArbitraryNoiseTest(Float64TestCase):
    @chex.variants(with_jit=True)
    def test_holds_for_any_noise_scale(self):
        where = line(-12.0, 12.0, 601)
        densities = np.exp(log_probs(mixtures(8, 1), where.points))
        waves, phases = np.random.default_rng(2).uniform(0.0, 6.0, size=(2, COUNT, 1))
        sigmas = 0.05 + 0.9 * np.sin(waves * where.axis + phases) ** 2
        perturb = jax.jit(jax.vmap(quadrature.perturb, in_axes=(None, 0, 0)))
        noisy = entropy(where, safe_log(perturb(where, densities, sigmas)))
        mean_log_sigma = np.sum(densities * np.log(sigmas), axis=1) * where.cell
        bound = self.variant(bounds.arbitrary_noise, static_argnums=1)(mean_log_sigma, 1)
        assert np.all(noisy > bound)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_tight_without_entropy_in_the_point(self, dim):
        bound = self.variant(bounds.arbitrary_noise, static_argnums=1)(np.log(0.3), dim)
        np.testing.assert_allclose(bound, gaussian_entropy(white(dim, 0.09)), rtol=1e-9)
        limit = bounds.indexed_noise_mean(-np.inf, 0.0, np.log(0.3), dim)
        np.testing.assert_allclose(bound, limit, rtol=1e-9)


class DequantisedEntropyTest(Float64TestCase):
    @chex.variants(with_jit=True)
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


class PerturbedImagesTest(Float64TestCase):
    @chex.variants(with_jit=True)
    def test_images_of_one_pixel(self):
        """A valley between two modes, noise largest there: the entropy falls, as in 4.5."""
        levels = np.arange(256)
        shares = sum(np.exp(-0.5 * ((levels - mode) / 16) ** 2) for mode in (98, 158))
        shares /= shares.sum()
        scales = np.maximum(0.06 * np.exp(-0.5 * ((levels - 128) / 12) ** 2), 1e-3)
        step = 1 / 4096  # sixteen points a level
        where = line(-0.5 + step / 2, 1.5 - step / 2, 8192)
        cells = 256.0 * (np.floor(256 * where.axis)[None, :] == levels[:, None])
        pieces = jax.jit(jax.vmap(quadrature.smooth, (None, 0, 0)))(where, cells, scales)
        noisy = entropy(where, safe_log(shares @ np.asarray(pieces)))
        clean = -shares @ np.log(shares) - np.log(256)
        # So the nearest item of a bank of one, whose entropy is 0, is no index in the sense of 4.2.
        assert noisy < bounds.indexed_noise_mean(clean, 0.0, shares @ np.log(scales), 1)
        drawn = np.repeat(scales, np.round(100_000 * shares).astype(int))
        bound = self.variant(bounds.perturbed_images, static_argnums=3)
        known, given = bound(drawn, clean, np.log(256), 1)  # a noise scale for each level
        assert -np.log(256) < known <= given < noisy
        # A scale that vanishes has no geometric mean: then the first bound is all there is.
        still = bound(np.append(drawn, 0.0), clean, np.log(256), 1)
        np.testing.assert_allclose(*still, rtol=1e-12)


def test_a_cell_without_mass_counts_nothing():
    found = bounds.indexed_noise(*map(np.float32, ([1, 0], [0, -np.inf], [1, 0])), 3)
    np.testing.assert_allclose(found, bounds.fixed_noise(np.float32(0), 1.0, 3), rtol=1e-6)


@pytest.mark.parametrize(
    ("entropy", "sigma", "expected"),
    [
        (300.0, 1.0, 300.0),
        (-300.0, 0.0, -300.0),
        (-300.0, 1e-30, np.log(2 * np.pi * np.e) - 2 * np.log(1e30)),
        (0.0, 1e30, np.log(2 * np.pi * np.e) + 2 * np.log(1e30)),
        (-np.inf, 0.2, np.log(2 * np.pi * np.e) + 2 * np.log(0.2)),
    ],
)
def test_fixed_noise_far_from_zero_in_float32(entropy, sigma, expected):
    arguments = np.float32(entropy), np.float32(sigma)
    assert float(bounds.fixed_noise(*arguments, 2)) == pytest.approx(expected, rel=1e-6)
    slopes = jax.grad(bounds.fixed_noise, argnums=(0, 1))(*arguments, 2)
    assert np.isfinite(slopes).all()
    log_sigma = np.log(sigma) if sigma else -np.inf
    mean = bounds.indexed_noise_mean(arguments[0], 0.0, np.float32(log_sigma), 2)
    assert float(mean) == pytest.approx(expected, rel=1e-6)
