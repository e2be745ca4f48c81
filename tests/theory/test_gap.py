import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from laws import (
    COUNT,
    Float64TestCase,
    cross_entropy,
    entropy,
    gaussian_fisher_information,
    gaussians,
    grid,
    log_probs,
    mixtures,
    perturbed,
)

from ecood.theory import gap, gaussian, quadrature
from ecood.theory.gaussian import Gaussian


class GapTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_identity_for_gaussians(self, dim):
        p, q, model = (gaussians(seed, dim) for seed in (0, 1, 2))

        def both(p, q, model):
            terms = gap.GapTerms(
                kl_ood=gaussian.kl(q, model),
                kl_id=gaussian.kl(p, model),
                entropy_ood=gaussian.entropy(q),
                entropy_id=gaussian.entropy(p),
            )
            likelihoods = -gaussian.cross_entropy(p, model), -gaussian.cross_entropy(q, model)
            measured = gap.decompose(*likelihoods, terms.entropy_id, terms.entropy_ood)
            return terms, measured, likelihoods[0] - likelihoods[1]

        terms, measured, difference = self.variant(jax.vmap(both))(p, q, model)
        np.testing.assert_allclose(terms.gap, difference, rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_close(measured, terms, rtol=1e-5, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_identity_for_mixtures(self, dim):
        where = grid(dim)
        log_p, log_q, log_model = (
            log_probs(mixtures(seed, dim), where.points) for seed in (0, 1, 2)
        )
        kl = jax.vmap(quadrature.kl, in_axes=(None, 0, 0))
        terms = gap.GapTerms(
            kl_ood=kl(where, log_q, log_model),
            kl_id=kl(where, log_p, log_model),
            entropy_ood=entropy(where, log_q),
            entropy_id=entropy(where, log_p),
        )
        difference = cross_entropy(where, log_q, log_model)
        difference -= cross_entropy(where, log_p, log_model)
        total = self.variant(lambda terms: terms.gap)(terms)
        np.testing.assert_allclose(total, difference, rtol=1e-5, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_perfect_model_has_a_gap_of_at_least_the_entropy_difference(self):
        where = grid(1)
        log_p, log_q = (log_probs(mixtures(seed, 1), where.points) for seed in (3, 4))
        own = entropy(where, log_p)
        excess = entropy(where, log_q) - own
        cross = self.variant(jax.vmap(quadrature.cross_entropy, in_axes=(None, 0, 0)))
        difference = cross(where, log_q, log_p) - own
        assert np.all(difference >= excess)
        paradox = difference < 0
        assert 0 < paradox.sum() < COUNT
        assert np.all(excess[paradox] < 0)
        np.testing.assert_allclose(cross(where, log_p, log_p), own, rtol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    def test_entropy_is_not_the_whole_story(self):
        """A paradox with the greater entropy outside; lower entropy without a paradox."""
        likelihood = self.variant(lambda p, model: -gaussian.cross_entropy(p, model))

        def law(mean, deviation):
            return Gaussian(jnp.array([mean]), jnp.array([[deviation**2]]))

        p = law(0.0, 1.0)
        misplaced, wider = law(3.0, 1.0), law(3.0, 1.5)  # a bad model of P, and Q on its peak
        assert gaussian.entropy(wider) > gaussian.entropy(p)
        assert likelihood(p, misplaced) < likelihood(wider, misplaced)
        narrow = law(5.0, 0.1)
        assert gaussian.entropy(narrow) < gaussian.entropy(p)
        assert likelihood(p, p) > likelihood(narrow, p)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_gaussian_model_gap_after_noise_is_exact(self, dim):
        p, q = mixtures(5, dim), mixtures(6, dim)
        model, where = gaussians(7, dim, low=1.0), grid(dim)
        log_prob = jax.vmap(jax.vmap(gaussian.log_prob, in_axes=(None, 0)), in_axes=(0, None))
        log_model = jax.jit(log_prob)(model, where.points)

        def surprise(law, sigma):
            noisy = perturbed(law, jnp.full(COUNT, sigma))
            return cross_entropy(where, log_probs(noisy, where.points), log_model)

        def measured(sigma_p, sigma_q):
            return surprise(q, sigma_q) - surprise(p, sigma_p)

        clean = measured(0.0, 0.0)
        trace = gaussian_fisher_information(model)
        predict = self.variant(gap.gaussian_gap)
        np.testing.assert_allclose(predict(clean, trace, 0.3, 0.8), measured(0.3, 0.8), atol=1e-4)
        np.testing.assert_allclose(clean, measured(0.7, 0.7), atol=1e-4)  # common noise is idle

        zero = np.asarray(self.variant(gap.gaussian_zero)(clean, trace, 0.3))
        at_zero = np.asarray(predict(clean, trace, 0.3, zero))
        np.testing.assert_allclose(at_zero[zero > 0], 0.0, atol=1e-9)
        assert np.all(at_zero[zero == 0] >= 0)
        assert 0 < np.sum(zero == 0) < COUNT
