import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from absl.testing import parameterized

from ecood import metrics
from ecood.score.forms import Standardised, floored
from ecood.theory import auroc
from tests.theory.laws import Float64TestCase


def exact(id_scores, id_weights, ood_scores, ood_weights):
    """AUROC of two discrete laws, ties as half."""
    difference = ood_scores[None, :] - id_scores[:, None]
    wins = (difference > 0) + 0.5 * (difference == 0)
    return id_weights @ wins @ ood_weights


def moments(scores, weights):
    mean = weights @ scores
    return mean, weights @ (scores - mean) ** 2


class AurocTest(Float64TestCase):
    @chex.variants(with_jit=True)
    def test_moments_against_numpy(self):
        rng = np.random.default_rng(4)
        id_scores, ood_scores = rng.normal(1.0, 2.0, size=50), rng.normal(3.0, 1.0, size=70)
        expected = ood_scores.mean() - id_scores.mean(), id_scores.var(), ood_scores.var()
        got = self.variant(auroc.moments)(id_scores, ood_scores)
        chex.assert_trees_all_close(got, expected, rtol=1e-12)

    @chex.variants(with_jit=True)
    def test_binormal_is_exact_for_normal_scores(self):
        rng = np.random.default_rng(0)
        binormal = self.variant(auroc.binormal)
        for gap, sd_id, sd_ood in ((1.0, 1.0, 2.0), (-0.7, 0.5, 1.0), (3.0, 2.0, 0.1)):
            id_scores = rng.normal(0.0, sd_id, size=40_000)
            ood_scores = rng.normal(gap, sd_ood, size=40_000)
            wins = np.mean(ood_scores > id_scores)  # independent pairs
            error = np.sqrt(wins * (1 - wins) / 40_000)
            assert abs(binormal(gap, sd_id**2, sd_ood**2) - wins) < 4 * error

    @chex.variants(with_jit=True)
    def test_bounds_hold_for_any_scores(self):
        rng = np.random.default_rng(1)
        results = []
        for _ in range(300):
            scores = rng.standard_t(2, size=(2, 6)) + np.array([[0.0], [rng.normal() * 4]])
            scores = np.round(scores)  # so that some tie
            weights = rng.dirichlet(np.full(6, 0.5), size=2)
            (mean_id, var_id), (mean_ood, var_ood) = map(moments, scores, weights)
            results.append(
                (exact(scores[0], weights[0], scores[1], weights[1]), mean_ood - mean_id)
                + (var_id, var_ood)
            )
        true, gap, var_id, var_ood = np.array(results).T
        lower = self.variant(jax.vmap(auroc.lower_bound))(gap, var_id, var_ood)
        upper = self.variant(jax.vmap(auroc.upper_bound))(gap, var_id, var_ood)
        assert np.all((lower <= true + 1e-12) & (true <= upper + 1e-12))
        assert np.all((lower > 0) == (gap > 0)) and np.all((upper < 1) == (gap < 0))

    @chex.variants(with_jit=True)
    def test_bounds_are_tight_if_one_score_is_constant(self):
        """A constant score and one of two values, one of them a hair on the wrong side of it."""
        lower_bound, upper_bound = map(self.variant, (auroc.lower_bound, auroc.upper_bound))
        for share in (0.05, 0.5, 0.9):
            still = np.zeros(1), np.ones(1)
            scores, weights = np.array([-1e-9, 1.0]), np.array([share, 1 - share])
            gap, variance = moments(scores, weights)
            for true, lower in (
                (exact(*still, scores, weights), lower_bound(gap, 0.0, variance)),
                (exact(-scores, weights, *still), lower_bound(gap, variance, 0.0)),
            ):
                np.testing.assert_allclose(lower, true, rtol=1e-6)
            for true, upper in (
                (exact(*still, -scores, weights), upper_bound(-gap, 0.0, variance)),
                (exact(scores, weights, *still), upper_bound(-gap, variance, 0.0)),
            ):
                np.testing.assert_allclose(upper, true, rtol=1e-6)

    @chex.variants(with_jit=True)
    def test_bounds_are_not_tight_if_both_scores_vary(self):
        """Scores of two values each, with equal variances, come no nearer than 0.05."""
        shares = np.linspace(0.01, 0.99, 99)
        low, high = -np.sqrt((1 - shares) / shares), np.sqrt(shares / (1 - shares))
        values = np.sqrt(0.5) * np.stack([low, high], axis=1)
        weights = np.stack([shares, 1 - shares], axis=1)
        nearest = min(
            exact(values[i], weights[i], 1.0 + values[j], weights[j])
            for i in range(len(shares))
            for j in range(len(shares))
        )
        lower = self.variant(auroc.lower_bound)(1.0, 0.5, 0.5)
        np.testing.assert_allclose(lower, 0.5, rtol=1e-9)
        assert lower + 0.05 < nearest < lower + 0.06

    @chex.variants(with_jit=True)
    def test_a_positive_gap_is_not_an_auroc_above_half(self):
        ood_scores, ood_weights = np.array([-1.0, 20.0]), np.array([0.9, 0.1])
        gap, variance = moments(ood_scores, ood_weights)
        true = exact(np.zeros(1), np.ones(1), ood_scores, ood_weights)
        assert gap > 0 and true < 0.2
        assert self.variant(auroc.lower_bound)(gap, 0.0, variance) <= true
        assert self.variant(auroc.binormal)(gap, 0.0, variance) > 0.5  # and is wrong here

    @chex.variants(with_jit=True)
    def test_lower_bound_grows_with_the_gap_and_shrinks_with_the_variances(self):
        slope = self.variant(jax.vmap(jax.grad(auroc.lower_bound, argnums=(0, 1, 2))))
        gaps = np.append(np.arange(-20, 21) / 10.0, 0.0)  # zero among them, last without variances
        variances = np.append(np.full(41, 0.3), 0.0), np.append(np.full(41, 0.7), 0.0)
        by_gap, by_id, by_ood = map(np.asarray, slope(gaps, *variances))
        positive = gaps > 0
        assert np.all(by_gap[positive] > 0) and np.all(by_id[positive] < 0)
        np.testing.assert_allclose(by_id, by_ood, rtol=1e-9)
        np.testing.assert_array_equal(by_gap[~positive], 0.0)
        assert np.all(np.isfinite((by_gap, by_id, by_ood)))
        # An AUROC of 0.9 takes three standard deviations, or 1.3 for normal scores.
        np.testing.assert_allclose(auroc.lower_bound(3.0, 0.3, 0.7), 0.9, rtol=1e-9)
        np.testing.assert_allclose(auroc.binormal(1.3, 0.3, 0.7), 0.9, atol=5e-3)
        both = self.variant(lambda *at: (auroc.lower_bound(*at), auroc.binormal(*at)))
        chex.assert_numerical_grads(both, tuple(np.array([0.8, 0.3, 0.7])), order=1, atol=1e-4)

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 8)
    def test_isotropic_gaussians(self, dim):
        isotropic = self.variant(auroc.isotropic_gaussian, static_argnums=2)
        expected = scipy.stats.f(dim, dim).cdf(1.7 / 0.6)
        np.testing.assert_allclose(isotropic(0.6, 1.7, dim), expected, rtol=1e-9)
        rng = np.random.default_rng(2)
        norms = [np.sum(rng.normal(0, sd, size=(20_000, dim)) ** 2, axis=1) for sd in (1.0, 1.2)]
        wins = np.mean(norms[1] > norms[0])
        error = np.sqrt(wins * (1 - wins) / 20_000)
        assert abs(isotropic(1.0, 1.44, dim) - wins) < 4 * error

    @chex.variants(with_jit=True)
    def test_common_noise_brings_white_gaussians_to_one_half_at_most(self):
        isotropic = self.variant(
            jax.vmap(lambda noise: auroc.isotropic_gaussian(1.0 + noise, 0.3 + noise, 8))
        )
        areas = isotropic(np.array([0.0, 0.1, 1.0, 10.0, 1e3, 1e6]))
        assert np.all(np.diff(areas) > 0) and np.all(areas < 0.5) and areas[-1] > 0.499

    @chex.variants(with_jit=True)
    def test_binormal_approximates_isotropic_gaussians_in_high_dimension(self):
        """Scores |x|^2 / 2 have mean D v / 2 and variance D v^2 / 2."""
        isotropic = self.variant(auroc.isotropic_gaussian, static_argnums=2)
        errors = []
        for dim in (4, 64, 1024):
            v = 1 + 1.5 / np.sqrt(dim)
            approximate = auroc.binormal(dim * (v - 1) / 2, dim / 2, dim * v**2 / 2)
            errors.append(abs(approximate - isotropic(1.0, v, dim)))
        assert errors[0] > errors[1] > errors[2] and errors[2] < 2e-3

    @chex.variants(with_jit=True)
    def test_averaging_draws_keeps_the_gap_and_lowers_the_variance(self):
        """-log p of N(0, I) at x + sigma z: the variance splits into image and draws."""
        rng, n, dim, sigma = np.random.default_rng(3), 20_000, 2, 1.0
        binormal = self.variant(auroc.binormal)

        def scores(scale, draws):
            x = scale * rng.normal(size=(n, 1, dim))
            noisy = x + sigma * rng.normal(size=(n, draws, dim))
            return 0.5 * np.sum(noisy**2, axis=2).mean(axis=1)

        means, variances = np.empty((2, 2)), np.empty((2, 2))
        for row, scale in enumerate((1.0, 1.5)):
            for column, draws in enumerate((1, 8)):
                values = scores(scale, draws)
                means[row, column], variances[row, column] = values.mean(), values.var()
                # Var E[. | x] = dim scale^4 / 2; E Var[. | x] = sigma^2 dim scale^2 + dim / 2.
                within = sigma**2 * dim * scale**2 + sigma**4 * dim / 2
                expected = dim * scale**4 / 2 + within / draws
                spread = np.sqrt(np.mean((values - values.mean()) ** 4) / n)
                assert abs(variances[row, column] - expected) < 4 * spread
        error = np.sqrt(variances.sum(axis=1) / n)
        assert np.all(np.abs(means[:, 0] - means[:, 1]) < 4 * error)
        gaps = means[1] - means[0]
        one, eight = (binormal(gaps[i], *variances[:, i]) for i in (0, 1))
        assert eight > one + 0.01


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_sum_of_normal_statistics(count):
    """With one of them shifted, against Monte Carlo: what adding uninformative ones costs."""
    rng, shift = np.random.default_rng(count), 2.0
    shifts = np.zeros(count)
    shifts[0] = shift
    id_scores, ood_scores = (
        (rng.normal(size=(20_000, count)) + mean).sum(axis=1) for mean in (0, shifts)
    )
    found = float(auroc.sum_of_normals(jnp.asarray(shifts), jnp.eye(count)))
    assert found == pytest.approx(metrics.auroc(id_scores, ood_scores), abs=5e-3)
    assert found == pytest.approx(scipy.stats.norm.cdf(shift / np.sqrt(2 * count)), abs=1e-6)


def test_when_the_larger_of_two_beats_their_sum_and_when_not():
    """Opposite shifts cancel in a sum and not in the larger; like shifts add up in a sum."""
    rng = np.random.default_rng(0)
    id_scores, noise = rng.normal(size=(2, 50_000, 2))
    for shifts, larger_wins in (((3.0, -3.0), True), ((1.5, 1.5), False)):
        ood_scores = noise + np.array(shifts)
        of_sum, of_larger = (
            metrics.auroc(combine(id_scores), combine(ood_scores))
            for combine in (lambda z: z.sum(axis=1), lambda z: z.max(axis=1))
        )
        assert (of_larger > of_sum) == larger_wins
    # And alone the informative one is better than the larger of it and an uninformative one.
    one = noise + np.array([1.0, 0.0])
    alone = metrics.auroc(id_scores[:, 0], one[:, 0])
    assert 0.5 < metrics.auroc(id_scores.max(axis=1), one.max(axis=1)) < alone


def floored_sum(bits, dissimilarity, excess):
    """What `floored` makes of three terms of an image."""
    z = Standardised(*map(jnp.float32, (bits, -np.inf, dissimilarity, excess)))
    terms = floored("density", "dissimilarity", "excess")(None, z)
    return np.asarray(sum(terms.values()))


@pytest.mark.parametrize("threshold", [-2.0, 0.5, 4.0])
def test_a_floored_sum_flags_what_one_term_flags_clearly(threshold):
    terms = 5 * np.random.default_rng(0).standard_cauchy((3, 100_000))
    score = floored_sum(*terms)
    beyond = (terms > auroc.flagged_beyond(threshold, 3)).any(axis=0)
    assert (score[beyond] > threshold).all()
    assert (terms.sum(axis=0)[beyond] <= threshold).any()  # the plain sum lets some of them pass
    tight = auroc.flagged_beyond(threshold, 3) - 0.01
    assert floored_sum(tight, -9.0, -9.0) < threshold


def test_certain_scores_are_ordered_or_equal():
    found = [float(auroc.binormal(gap, 0.0, 0.0)) for gap in (-1.0, 0.0, 1.0)]
    assert found == [0, 0.5, 1]
    assert np.isfinite(jax.grad(auroc.binormal)(0.0, 0.0, 0.0))


@pytest.mark.parametrize("dim", [1, 2, 64, 1000, 3072, 100_000])
def test_isotropic_gaussians_in_float32_for_every_dimension(dim):
    isotropic = jax.jit(auroc.isotropic_gaussian, static_argnums=2)
    for ratio in (0.01, 0.99, 1.0, 1.001, 1.01, 3.0, 1e6):
        found = isotropic(np.float32(1), np.float32(ratio), dim)
        assert float(found) == pytest.approx(scipy.stats.f(dim, dim).cdf(ratio), abs=1e-5)
        slope = jax.grad(isotropic, argnums=1)(np.float32(1), np.float32(ratio), dim)
        expected = scipy.stats.f(dim, dim).pdf(ratio)
        assert float(slope) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_sum_of_certain_statistics_is_ordered_or_equal():
    nothing = jnp.zeros((2, 2))
    found = [auroc.sum_of_normals(jnp.array(d), nothing) for d in ([-1.0, 0], [1.0, -1], [1.0, 0])]
    assert [float(area) for area in found] == [0, 0.5, 1]
    assert np.isfinite(jax.grad(auroc.sum_of_normals, argnums=1)(jnp.zeros(2), nothing)).all()


@pytest.mark.parametrize("gap", [1e-30, 2e19, 1e38])
def test_the_bounds_overflow_for_no_gap(gap):
    gap, one = np.float32(gap), np.float32(1)
    expected = float(np.float64(gap) ** 2 / (np.float64(gap) ** 2 + 2))
    assert auroc.lower_bound(gap, one, one) == pytest.approx(expected, abs=1e-6)
    assert auroc.upper_bound(-gap, one, one) == pytest.approx(1 - expected, abs=1e-6)
    slopes = jax.grad(auroc.lower_bound, (0, 1, 2))(gap, one, one)
    assert all(np.isfinite(slopes))
