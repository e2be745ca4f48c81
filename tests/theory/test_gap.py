import chex
import jax
import numpy as np
from absl.testing import parameterized

from ecood.theory import gap, gaussian, quadrature
from ecood.theory.gaussian import Gaussian
from ecood.theory.mixture import Mixture
from tests.theory.laws import (
    COUNT,
    Float64TestCase,
    cross_entropy,
    entropy,
    gaussian_cross_entropy,
    gaussian_entropy,
    gaussian_fisher_information,
    gaussian_kl,
    gaussians,
    grid,
    log_probs,
    mixtures,
    perturbed,
)


class GapTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 4)
    def test_identity_for_gaussians(self, dim):
        p, q, model = (gaussians(seed, dim) for seed in (0, 1, 2))
        terms = gap.GapTerms(
            kl_ood=gaussian_kl(q, model),
            kl_id=gaussian_kl(p, model),
            entropy_ood=gaussian_entropy(q),
            entropy_id=gaussian_entropy(p),
        )
        self.check(terms, *(-gaussian_cross_entropy(law, model) for law in (p, q)))

    def check(self, terms, id_log_prob, ood_log_prob):
        measured = self.variant(gap.decompose)(
            id_log_prob, ood_log_prob, terms.entropy_id, terms.entropy_ood
        )
        chex.assert_trees_all_close(measured, terms, rtol=1e-5, atol=1e-5)
        total = self.variant(lambda terms: terms.gap)(terms)
        np.testing.assert_allclose(total, id_log_prob - ood_log_prob, rtol=1e-5, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_identity_for_mixtures(self, dim):
        where = grid(dim)
        log_p, log_q, log_model = (
            log_probs(mixtures(seed, dim), where.points) for seed in (0, 1, 2)
        )
        kl = jax.jit(jax.vmap(quadrature.kl, in_axes=(None, 0, 0)))
        terms = gap.GapTerms(
            kl_ood=kl(where, log_q, log_model),
            kl_id=kl(where, log_p, log_model),
            entropy_ood=entropy(where, log_q),
            entropy_id=entropy(where, log_p),
        )
        self.check(terms, *(-cross_entropy(where, law, log_model) for law in (log_p, log_q)))

    @chex.variants(with_jit=True, without_jit=True)
    def test_perfect_model_has_a_gap_of_at_least_the_entropy_difference(self):
        where = grid(1)
        log_p, log_q = (log_probs(mixtures(seed, 1), where.points) for seed in (3, 4))
        own = entropy(where, log_p)
        excess = entropy(where, log_q) - own
        cross = self.variant(jax.vmap(quadrature.cross_entropy, in_axes=(None, 0, 0)))
        difference = np.asarray(cross(where, log_q, log_p)) - own
        assert np.all(difference >= excess)
        paradox = difference < 0
        assert 0 < paradox.sum() < COUNT
        assert np.all(excess[paradox] < 0)
        np.testing.assert_allclose(cross(where, log_p, log_p), own, rtol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    def test_entropy_is_not_the_whole_story(self):
        """A paradox with the greater entropy outside; lower entropy without a paradox."""
        surprise = self.variant(gaussian.cross_entropy)

        def law(mean, deviation):
            return Gaussian(np.array([mean]), np.array([[deviation**2]]))

        p = law(0.0, 1.0)
        misplaced, wider = law(3.0, 1.0), law(3.0, 1.5)  # a bad model of P, and Q on its peak
        assert gaussian_entropy(wider) > gaussian_entropy(p)
        assert surprise(p, misplaced) > surprise(wider, misplaced)
        narrow = law(5.0, 0.1)
        assert gaussian_entropy(narrow) < gaussian_entropy(p)
        assert surprise(p, p) < surprise(narrow, p)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 2)
    def test_gaussian_model_gap_after_noise_is_exact(self, dim):
        p, q = mixtures(5, dim), mixtures(6, dim)
        model, where = gaussians(7, dim, low=1.0), grid(dim)
        one = Mixture(np.ones((COUNT, 1)), model.mean[:, None], model.covariance[:, None])
        log_model = log_probs(one, where.points)

        def surprise(law, sigma):
            noisy = perturbed(law, np.full(COUNT, sigma))
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


def test_where_the_gap_never_crosses_zero_more_noise_changes_nothing():
    slopes = jax.grad(gap.gaussian_zero, argnums=(0, 1, 2))(5.0, 1.0, 0.3)
    assert gap.gaussian_zero(5.0, 1.0, 0.3) == 0 and slopes == (0, 0, 0)
