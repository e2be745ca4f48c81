import chex
import jax
import numpy as np
from absl.testing import parameterized

from ecood.theory import bounds, mixture, monte_carlo, quadrature
from ecood.theory.gaussian import Gaussian
from tests.theory.laws import (
    Float64TestCase,
    cross_entropy,
    entropy,
    first,
    fisher_information,
    gaussian_entropy,
    grid,
    log_probs,
    mixtures,
)


class MixtureTest(Float64TestCase):
    @parameterized.parameters(1, 2)
    def test_log_prob_against_numpy(self, dim):
        laws, points = mixtures(0, dim), grid(dim).points[::17]
        log_prob = jax.vmap(jax.vmap(mixture.log_prob, in_axes=(None, 0)), in_axes=(0, None))
        got = jax.jit(log_prob)(laws, points)
        np.testing.assert_allclose(got, log_probs(laws, points), rtol=1e-9, atol=1e-9)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2)
    def test_integrates_to_one_with_its_moments(self, dim):
        laws, points = mixtures(0, dim), grid(dim).points
        mass = np.exp(log_probs(laws, points)) * grid(dim).cell
        moments = self.variant(jax.vmap(mixture.moments))(laws)
        np.testing.assert_allclose(mass.sum(axis=1), 1.0, atol=1e-6)
        np.testing.assert_allclose(mass @ points, moments.mean, atol=1e-6)
        second = np.einsum("nm,mi,mj->nij", mass, points, points)
        mean = np.asarray(moments.mean)
        second -= mean[:, :, None] * mean[:, None, :]
        np.testing.assert_allclose(second, moments.covariance, atol=1e-5)

    @chex.variants(with_jit=True)
    @parameterized.product(dim=(1, 2), per_component=(False, True))
    def test_perturb_is_convolution(self, dim, per_component):
        law, where = first(mixtures(2, dim)), grid(dim)
        sigma = np.array([0.3, 0.5, 0.9]) if per_component else np.full(3, 0.7)
        noisy = self.variant(mixture.perturb)(law, sigma if per_component else sigma[0])
        parts = mixture.Mixture(  # a mixture of one for each component
            law.weights[:, None], law.means[:, None], law.covariances[:, None]
        )
        smooth = jax.jit(jax.vmap(quadrature.smooth, in_axes=(None, 0, 0)))
        expected = smooth(where, np.exp(log_probs(parts, where.points)), sigma).sum(axis=0)
        batch = mixture.Mixture(*(np.asarray(leaf)[None] for leaf in noisy))
        np.testing.assert_allclose(np.exp(log_probs(batch, where.points)[0]), expected, atol=1e-5)

    def test_fit_has_each_components_share_mean_and_covariance(self):
        rng = np.random.default_rng(5)
        x, component = rng.normal(size=(40, 2)), rng.integers(0, 3, 40)
        law = mixture.fit(x, component, 3)
        for k in range(3):
            own = x[component == k]
            np.testing.assert_allclose(law.weights[k], len(own) / 40)
            np.testing.assert_allclose(law.means[k], own.mean(axis=0))
            np.testing.assert_allclose(law.covariances[k], np.cov(own.T, bias=True))

    def test_monte_carlo_agrees_with_quadrature(self):
        repeats, n, dim = 20, 500, 2
        p, q, where = mixtures(3, dim), mixtures(4, dim), grid(dim)
        log_p, log_q = (log_probs(law, where.points)[0] for law in (p, q))
        own, cross = entropy(where, log_p), cross_entropy(where, log_p, log_q)
        exact = own, cross, cross - own, fisher_information(p, where)[0]
        p, q = first(p), first(q)
        points, _ = jax.jit(mixture.sample, static_argnums=2)(jax.random.key(0), p, repeats * n)

        def drawn(points):
            p_at, q_at = (lambda x: mixture.log_prob(p, x)), (lambda x: mixture.log_prob(q, x))
            return (
                monte_carlo.entropy(p_at, points),
                monte_carlo.cross_entropy(q_at, points),
                monte_carlo.kl(p_at, q_at, points),
                monte_carlo.fisher_information(p_at, points),
            )

        estimates = jax.jit(jax.vmap(drawn))(np.asarray(points).reshape(repeats, n, dim))
        for estimate, value in zip(estimates, exact, strict=True):
            deviations = (np.asarray(estimate.value) - value) / np.asarray(estimate.error)
            assert np.max(np.abs(deviations)) < 4.0  # standard errors
            # Errors that were too large would show as deviations that are too small.
            assert abs(deviations.std() - 1.0) < 4 / np.sqrt(2 * repeats)

    def test_sample_draws_the_components_by_weight(self):
        n, law = 20_000, first(mixtures(5, 2))
        sample = jax.jit(mixture.sample, static_argnums=2)
        points, component = map(np.asarray, sample(jax.random.key(1), law, n))
        weights = law.weights
        shares = np.bincount(component, minlength=3) / n
        assert np.all(np.abs(shares - weights) < 4 * np.sqrt(weights * (1 - weights) / n))
        for k in range(3):
            own, c = points[component == k], law.covariances[k]
            error = np.sqrt(np.diag(c) / len(own))
            assert np.all(np.abs(own.mean(axis=0) - law.means[k]) < 4 * error)
            error = np.sqrt((np.outer(np.diag(c), np.diag(c)) + c**2) / len(own))
            assert np.all(np.abs(np.cov(own.T) - c) < 4 * error)

    @chex.variants(with_jit=True)
    def test_entropy_is_below_the_gaussian_of_the_same_moments(self):
        laws, where = mixtures(6, 2), grid(2)
        moments = self.variant(jax.vmap(mixture.moments))(laws)
        most = gaussian_entropy(Gaussian(*map(np.asarray, moments)))
        assert np.all(entropy(where, log_probs(laws, where.points)) < most)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2)
    def test_entropy_power_times_fisher_information_is_at_least_dim(self, dim):
        laws, where = mixtures(7, dim), grid(dim)
        own = entropy(where, log_probs(laws, where.points))
        powers = self.variant(bounds.entropy_power, static_argnums=1)(own, dim)
        assert np.all(powers * fisher_information(laws, where) >= dim)
