import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from laws import COUNT, Float64TestCase, first, fisher_information, grid, log_probs, mixtures

from ecood.theory import bounds, gaussian, mixture, monte_carlo, quadrature
from ecood.theory.gaussian import Gaussian


class MixtureTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_integrates_to_one_with_its_moments(self, dim):
        laws, points = mixtures(0, dim), np.asarray(grid(dim).points)
        mass = np.exp(log_probs(laws, points)) * np.asarray(grid(dim).cell)
        moments = self.variant(jax.vmap(mixture.moments))(laws)
        np.testing.assert_allclose(mass.sum(axis=1), 1.0, atol=1e-6)
        np.testing.assert_allclose(mass @ points, moments.mean, atol=1e-6)
        second = np.einsum("nm,mi,mj->nij", mass, points, points)
        mean = np.asarray(moments.mean)
        second -= mean[:, :, None] * mean[:, None, :]
        np.testing.assert_allclose(second, moments.covariance, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_one_component_is_a_gaussian(self):
        law = first(mixtures(1, 3, components=1))
        x = jnp.array([0.3, -1.0, 0.5])
        expected = gaussian.log_prob(Gaussian(law.means[0], law.covariances[0]), x)
        np.testing.assert_allclose(self.variant(mixture.log_prob)(law, x), expected, rtol=1e-10)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(dim=(1, 2), per_component=(False, True))
    def test_perturb_is_convolution(self, dim, per_component):
        laws, where = mixtures(2, dim), grid(dim)
        sigma = jnp.array([0.3, 0.5, 0.9]) if per_component else jnp.full(3, 0.7)
        noisy = self.variant(mixture.perturb)(first(laws), sigma if per_component else sigma[0])
        expected = jnp.zeros(where.points.shape[0])
        for k in range(3):
            one = laws._replace(weights=jnp.full((COUNT, 3), jnp.eye(3)[k][None, :]))
            density = laws.weights[0, k] * jnp.exp(log_probs(one, where.points)[0])
            expected += quadrature.smooth(where, density, sigma[k])
        batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * COUNT), noisy)
        np.testing.assert_allclose(jnp.exp(log_probs(batch, where.points)[0]), expected, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_monte_carlo_agrees_with_quadrature(self):
        repeats, n, dim = 20, 500, 2
        p, q, where = mixtures(3, dim), mixtures(4, dim), grid(dim)
        log_p, log_q = (np.asarray(log_probs(law, where.points))[0] for law in (p, q))
        exact = [
            quadrature.entropy(where, log_p),
            quadrature.cross_entropy(where, log_p, log_q),
            quadrature.kl(where, log_p, log_q),
            np.asarray(fisher_information(p, where))[0],
        ]
        p, q = first(p), first(q)
        points, _ = mixture.sample(jax.random.key(0), p, repeats * n)

        def drawn(points):
            p_at, q_at = (lambda x: mixture.log_prob(p, x)), (lambda x: mixture.log_prob(q, x))
            return (
                monte_carlo.entropy(p_at, points),
                monte_carlo.cross_entropy(q_at, points),
                monte_carlo.kl(p_at, q_at, points),
                monte_carlo.fisher_information(p_at, points),
            )

        estimates = self.variant(jax.vmap(drawn))(points.reshape(repeats, n, dim))
        for estimate, value in zip(estimates, exact, strict=True):
            deviations = np.asarray((estimate.value - value) / estimate.error)
            assert np.max(np.abs(deviations)) < 4.0  # standard errors
            # Errors that were too large would show as deviations that are too small.
            assert abs(deviations.std() - 1.0) < 4 / np.sqrt(2 * repeats)

    @chex.variants(with_jit=True, without_jit=True)
    def test_sample_draws_the_components_by_weight(self):
        n, law = 20_000, first(mixtures(5, 2))
        points, component = self.variant(lambda key, law: mixture.sample(key, law, n))(
            jax.random.key(1), law
        )
        points, component, weights = np.asarray(points), np.asarray(component), law.weights
        shares = np.bincount(component, minlength=3) / n
        assert np.all(np.abs(shares - weights) < 4 * np.sqrt(weights * (1 - weights) / n))
        for k in range(3):
            own, c = points[component == k], np.asarray(law.covariances[k])
            error = np.sqrt(np.diag(c) / len(own))
            assert np.all(np.abs(own.mean(axis=0) - law.means[k]) < 4 * error)
            error = np.sqrt((np.outer(np.diag(c), np.diag(c)) + c**2) / len(own))
            assert np.all(np.abs(np.cov(own.T) - c) < 4 * error)

    @chex.variants(with_jit=True, without_jit=True)
    def test_entropy_is_below_the_gaussian_of_the_same_moments(self):
        laws, where = mixtures(6, 2), grid(2)
        entropy = self.variant(jax.vmap(lambda log_p: quadrature.entropy(where, log_p)))
        most = jax.vmap(lambda law: gaussian.entropy(mixture.moments(law)))(laws)
        assert np.all(entropy(log_probs(laws, where.points)) < most)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_entropy_power_times_fisher_information_is_at_least_dim(self, dim):
        laws, where = mixtures(7, dim), grid(dim)

        def power(log_p):
            return bounds.entropy_power(quadrature.entropy(where, log_p), dim)

        powers = self.variant(jax.vmap(power))(log_probs(laws, where.points))
        assert np.all(powers * fisher_information(laws, where) >= dim)
