import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import parameterized

from ecood.theory import bounds, certificate, expansion, quadrature
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
    line,
    log_probs,
    mixtures,
    perturbed,
    valley,
    white,
)

SIGMAS_ID = np.random.default_rng(0).uniform(0.0, 0.5, size=COUNT)
SIGMAS_OOD = np.random.default_rng(1).uniform(0.0, 1.5, size=COUNT)


def logistic(x):
    """A log-concave density that is no Gaussian: -(log p)'' = 2 s (1 - s) <= 1/2."""
    return -jnp.abs(x[0]) - 2 * jnp.log1p(jnp.exp(-jnp.abs(x[0])))


def at_points(log_prob, points):
    """(Log p [M], the least L with -(log p)'' <= L at the points)."""

    def both(x):
        return log_prob(x), -expansion.hessian_trace(log_prob, x)

    log_p, curvature = map(np.asarray, jax.jit(jax.vmap(both))(points))
    return log_p, curvature.max()


def log_normal(where, variance):
    """The log-density of N(0, variance) on the line."""
    return scipy.stats.norm.logpdf(where.axis, 0.0, np.sqrt(variance))


class GapTest(Float64TestCase):
    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_gaussians(self, dim):
        p, q, model = (gaussians(seed, dim) for seed in (0, 1, 2))
        noisy_p = perturbed(p, SIGMAS_ID)
        noisy_q = perturbed(q, SIGMAS_OOD)
        likelihood_p = -gaussian_cross_entropy(noisy_p, model)
        true = likelihood_p + gaussian_cross_entropy(noisy_q, model)
        entropy_bound = bounds.fixed_noise(gaussian_entropy(q), SIGMAS_OOD, dim)
        bound = self.variant(certificate.gap)(entropy_bound, likelihood_p)
        assert np.all(true >= bound - 1e-9)
        dropped = gaussian_kl(noisy_q, model) + gaussian_entropy(noisy_q) - entropy_bound
        np.testing.assert_allclose(true - bound, dropped, rtol=1e-5, atol=1e-5)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_tight_for_a_model_that_is_the_noisy_ood(self, dim):
        p, q, model = gaussians(0, dim), white(dim, 0.3), white(dim, 0.3 + 0.8**2)
        likelihood_p = -gaussian_cross_entropy(p, model)
        entropy_bound = bounds.fixed_noise(gaussian_entropy(q), 0.8, dim)
        bound = self.variant(certificate.gap)(entropy_bound, likelihood_p)
        true = likelihood_p + gaussian_entropy(model)
        np.testing.assert_allclose(bound, true, rtol=1e-9, atol=1e-9)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2)
    def test_mixtures(self, dim):
        p, q, model = (mixtures(seed, dim) for seed in (3, 4, 5))
        where = grid(dim)
        clean, log_model = (log_probs(law, where.points) for law in (q, model))
        sigmas = np.minimum(SIGMAS_OOD, 1.0)
        noisy_p, noisy_q = perturbed(p, SIGMAS_ID), perturbed(q, sigmas)
        likelihood_p, likelihood_q = (
            -cross_entropy(where, log_probs(law, where.points), log_model)
            for law in (noisy_p, noisy_q)
        )
        entropy_bound = bounds.fixed_noise(entropy(where, clean), sigmas, dim)
        bound = self.variant(certificate.gap)(entropy_bound, likelihood_p)
        assert np.all(likelihood_p - likelihood_q >= bound)

    @chex.variants(with_jit=True)
    def test_noise_that_varies_with_the_point_under_a_log_concave_model(self):
        """sigma(y) is continuous; its levels are taken at their lower edges."""
        unit = 10.0  # large entropies, so that shares which do not sum to one would show
        where = line(-12.0 * unit, 12.0 * unit, 601)
        y, cell = where.axis / unit, where.cell
        wave = np.sin(1.1 * y) ** 2
        indexed = self.variant(bounds.indexed_noise, static_argnums=3)
        perturb = jax.jit(quadrature.perturb)

        def surprise_and_bound(log_q, scale, edges, log_model):
            density = np.exp(log_q)
            density /= density.sum() * cell
            noisy = np.asarray(perturb(where, density, scale))
            level = np.searchsorted(edges, scale, side="right") - 1
            parts = [density[level == i] for i in range(len(edges))]
            shares = np.array([part.sum() for part in parts]) * cell
            inside = [
                -np.sum(part / share * np.log(part / share)) * cell
                for part, share in zip(parts, shares, strict=True)
            ]
            surprise = -np.sum(noisy * log_model) * cell
            return surprise, indexed(shares, np.array(inside), edges, 1)

        log_model = at_points(logistic, y[:, None])[0] - np.log(unit)
        edges = unit * np.linspace(0.1, 1.0, 6)[:-1]
        for log_q in log_probs(mixtures(6, 1), y[:, None])[:10]:
            surprise, bound = surprise_and_bound(log_q, unit * (0.1 + 0.9 * wave), edges, log_model)
            assert surprise >= bound
        # White noise that hardly varies, under a model that is the noisy OOD: nearly tight.
        log_q, log_model = (log_normal(where, v * unit**2) for v in (1.44, 1.8))
        surprise, bound = surprise_and_bound(
            log_q, unit * (0.6 + 0.01 * wave), np.array([0.6 * unit]), log_model
        )
        assert 0 <= surprise - bound < 0.003

    @chex.variants(with_jit=True)
    def test_noise_raises_the_gap_if_the_model_is_log_concave_but_not_in_general(self):
        """A narrow Q in the valley between the model's modes: noise moves it to them."""
        where, sigmas = line(-12.0, 12.0, 601), np.linspace(0.0, 1.5, 16)
        log_q = np.stack([log_normal(where, 0.01 + sigma**2) for sigma in sigmas])
        measure = jax.vmap(quadrature.cross_entropy, in_axes=(None, 0, None))
        concave, bimodal = (
            self.variant(measure)(where, log_q, at_points(model, where.points)[0])
            for model in (logistic, valley())
        )
        assert np.all(np.diff(concave) > 0)
        assert np.all(np.diff(bimodal) < 0) and bimodal[-1] < bimodal[0] - 1
        # The bound rises, and stays below.
        bound = bounds.fixed_noise(gaussian_entropy(white(1, 0.01)), sigmas, 1)
        assert np.all(np.diff(bound) > 0) and np.all(bound <= bimodal)


class SmallestSigmaTest(Float64TestCase):
    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 3)
    def test_certificate_is_zero_there_and_grows(self, dim):
        rng = np.random.default_rng(2)
        clean, likelihood = rng.normal(scale=2.0 * dim, size=(2, 300))
        smallest = self.variant(certificate.smallest_sigma, static_argnums=2)
        sigma = np.asarray(smallest(clean, likelihood, dim))

        def bound(sigma):
            return np.asarray(certificate.gap(bounds.fixed_noise(clean, sigma, dim), likelihood))

        needed = clean < -likelihood
        assert 0 < needed.sum() < 300
        np.testing.assert_allclose(bound(sigma)[needed], 0.0, atol=1e-9)
        assert np.all(bound(1.001 * sigma)[needed] > 0)
        assert np.all(bound(0.999 * sigma)[needed] < 0)
        np.testing.assert_array_equal(sigma[~needed], 0.0)
        assert np.all(bound(0.0)[~needed] >= 0)
        without_density = smallest(np.full(300, -np.inf), likelihood, dim)
        power = np.exp(-2 * likelihood / dim) / (2 * np.pi * np.e)
        np.testing.assert_allclose(without_density, np.sqrt(power), rtol=1e-9)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_true_gap_is_positive_above_it(self, dim):
        p, q, model = (gaussians(seed, dim) for seed in (7, 8, 9))
        likelihood = -gaussian_cross_entropy(perturbed(p, SIGMAS_ID), model)
        clean = gaussian_entropy(q)
        sigma = self.variant(certificate.smallest_sigma, static_argnums=2)(clean, likelihood, dim)
        noisy = perturbed(q, 1.001 * np.asarray(sigma))
        assert np.all(likelihood + gaussian_cross_entropy(noisy, model) > 0)

    @chex.variants(with_jit=True)
    def test_in_grey_levels(self):
        """8-bit images whatever their entropy, and a noise scale that is a function of them."""
        dim, bits = 3, 4.2
        entropy_ood = bounds.dequantised_entropy(0.0, dim)  # given the integer image
        likelihood = dim * np.log(2.0) * (8.0 - bits)  # bits = 8 - likelihood / (D log 2)
        smallest = self.variant(certificate.smallest_sigma, static_argnums=2)
        expected = np.sqrt((4.0**bits - 1) / (2 * np.pi * np.e))
        np.testing.assert_allclose(
            256 * smallest(entropy_ood, likelihood, dim), expected, rtol=1e-9
        )
        np.testing.assert_allclose(expected, 4.44, atol=0.01)

    @chex.variants(with_jit=True)
    def test_gradients(self):
        smallest = self.variant(lambda h, c: certificate.smallest_sigma(h, c, 3))
        chex.assert_numerical_grads(smallest, tuple(np.array([-2.0, -1.0])), order=1, atol=1e-4)


class IdTermTest(Float64TestCase):
    """What the noise on P itself costs."""

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 4)
    def test_curvature_bound_is_exact_for_gaussian_models(self, dim):
        p, model = gaussians(10, dim), gaussians(11, dim)
        noisy = perturbed(p, SIGMAS_ID)
        clean, exact = (-gaussian_cross_entropy(law, model) for law in (p, noisy))
        curvature = gaussian_fisher_information(model) / dim
        bound = self.variant(certificate.id_log_prob_bound, static_argnums=3)(
            clean, curvature, SIGMAS_ID, dim
        )
        np.testing.assert_allclose(bound, exact, rtol=1e-9)

    @chex.variants(with_jit=True)
    def test_curvature_bound_holds_for_other_models(self):
        p, where = mixtures(12, 1), grid(1)
        noisy = perturbed(p, np.full(COUNT, 0.8))
        log_p, log_noisy = (log_probs(law, where.points) for law in (p, noisy))
        for log_prob in (logistic, valley(distance=1.5, scale=0.8)):
            log_model, curvature = at_points(log_prob, where.points)
            log_model = np.broadcast_to(log_model, log_p.shape)
            clean, after = (-cross_entropy(where, law, log_model) for law in (log_p, log_noisy))
            bound = self.variant(certificate.id_log_prob_bound, static_argnums=3)(
                clean, curvature, 0.8, 1
            )
            assert np.all(after >= bound)
            if log_prob is logistic:
                np.testing.assert_allclose(curvature, 0.5, rtol=1e-6)
                assert np.all(after < clean)  # log-concave: the term always falls

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2)
    def test_perfect_model_falls_by_at_least_the_entropy_it_gains(self, dim):
        p, where = mixtures(13, dim), grid(dim)
        sigmas = np.linspace(0.05, 1.0, COUNT)
        noisy = perturbed(p, sigmas)
        log_p, log_noisy = (log_probs(law, where.points) for law in (p, noisy))
        clean = entropy(where, log_p)
        fall = cross_entropy(where, log_noisy, log_p) - clean
        grown = np.asarray(self.variant(bounds.fixed_noise, static_argnums=2)(clean, sigmas, dim))
        assert np.all(fall > grown - clean)
        # So common noise is never certified where Q has the lower entropy.
        lower = clean - 0.1
        bound = certificate.gap(bounds.fixed_noise(lower, sigmas, dim), -fall - clean)
        assert np.all(bound < 0)

    @chex.variants(with_jit=True)
    def test_term_may_rise_under_an_imperfect_model(self):
        where = line(-10.0, 10.0, 401)
        log_model, _ = at_points(valley(), where.points)
        surprise = self.variant(quadrature.cross_entropy)
        before, after = (surprise(where, log_normal(where, v), log_model) for v in (0.04, 0.29))
        assert -after > -before + 0.1


class ProportionalNoiseTest(Float64TestCase):
    """sigma_id = ratio * sigma_ood, as when both come from one similarity scale."""

    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(3)
        self.dim, n = 3, 300
        self.entropy = rng.normal(-1.0, 3.0, size=n)
        self.clean = rng.normal(-3.0, 1.0, size=n)
        self.curvature = np.exp(rng.normal(0.5, 0.5, size=n))
        self.ratio = rng.uniform(0.05, 1.0, size=n)

    def bound(self, entropy, sigma, ratio):
        likelihood = certificate.id_log_prob_bound(
            self.clean, self.curvature, ratio * sigma, self.dim
        )
        bound = certificate.gap(bounds.fixed_noise(entropy, sigma, self.dim), likelihood)
        return np.asarray(bound)

    def power(self, entropy):
        return np.asarray(bounds.entropy_power(entropy, self.dim))

    @chex.variants(with_jit=True)
    def test_best_sigma_maximises_the_certificate(self):
        best = np.asarray(
            self.variant(certificate.best_sigma, static_argnums=3)(
                self.entropy, self.curvature, self.ratio, self.dim
            )
        )
        top = self.bound(self.entropy, best, self.ratio)
        for sigma in np.geomspace(1e-3, 1e2, 60):
            assert np.all(self.bound(self.entropy, sigma, self.ratio) <= top + 1e-9)
        assert 0 < np.sum(best == 0) < best.size
        # It certifies if and only if 1 + log a < b, in terms of the two entropy powers.
        a, b = (self.power(h) * self.curvature * self.ratio**2 for h in (-self.clean, self.entropy))
        inside = best > 0
        np.testing.assert_array_equal((top > 0)[inside], (1 + np.log(a) < b)[inside])
        assert 0 < np.sum((top > 0)[inside]) < np.sum(inside)

    @chex.variants(with_jit=True)
    def test_critical_ratio_separates(self):
        critical = np.asarray(
            self.variant(certificate.critical_ratio, static_argnums=2)(
                self.clean, self.curvature, self.dim
            )
        )
        nothing = np.full(critical.shape, -np.inf)
        for factor, certified in ((0.999, True), (1.001, False)):
            ratio = factor * critical
            best = np.asarray(certificate.best_sigma(nothing, self.curvature, ratio, self.dim))
            top = self.bound(nothing, best, ratio)
            np.testing.assert_array_equal(top > 0, certified)
            if certified:  # and then for every Q, at the same noise
                assert np.all(self.bound(self.entropy, best, ratio) > 0)
        np.testing.assert_allclose(
            self.bound(nothing, 1 / np.sqrt(self.curvature * critical**2), critical),
            0.0,
            atol=1e-9,
        )

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2)
    def test_perfect_models_need_a_ratio_below_one_over_root_e(self, dim):
        critical = self.variant(certificate.critical_ratio, static_argnums=2)

        def perfect(law):
            return -gaussian_entropy(law), gaussian_fisher_information(law) / dim

        clean, curvature = perfect(gaussians(14, dim))
        assert np.all(critical(clean, curvature, dim) <= np.exp(-0.5) + 1e-9)
        clean, curvature = perfect(white(dim, 0.2))
        np.testing.assert_allclose(critical(clean, curvature, dim), np.exp(-0.5), rtol=1e-9)
        if dim == 1:
            where, law = grid(dim), valley(distance=1.0, scale=0.8)
            log_p, curvature = at_points(law, where.points)
            clean = -entropy(where, log_p)
            assert critical(clean, curvature, dim) < np.exp(-0.5)


def test_where_no_noise_is_needed_the_slopes_are_zero():
    for function, arguments in (
        (certificate.smallest_sigma, (5.0, 0.0)),
        (certificate.smallest_sigma, (300.0, -300.0)),
        (certificate.best_sigma, (5.0, 1.0, 1.0)),
    ):
        every = tuple(range(len(arguments)))
        slopes = jax.grad(function, argnums=every)(*map(jnp.float32, arguments), 2)
        assert function(*map(jnp.float32, arguments), 2) == 0 and not any(slopes)


def test_entropies_far_from_zero_in_float32():
    """Two laws whose powers e^{2H/D} overflow, or vanish; what is left of them does not."""
    for surprise, smallest in ((80.0, 0.0), (-300.0, 0.0), (80.0, 2.0)):
        entropy, scale = surprise - smallest, np.exp(surprise / 2) / np.sqrt(2 * np.pi * np.e)
        expected = scale * np.sqrt(-np.expm1(-smallest))
        found = certificate.smallest_sigma(np.float32(entropy), np.float32(-surprise), 2)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    critical = certificate.critical_ratio(np.float32(150.0), np.float32(1.0), 2)
    np.testing.assert_allclose(critical, np.sqrt(2 * np.pi) * np.exp(75.0), rtol=1e-5)
