"""What is measured of an image, against densities whose every statistic is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import encoders, memory, statistics
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.statistics import Draws, guard, perturbed_bits, reference, signed_guard, standardise
from tests import small
from tests.baselines import tiny

KEY = jax.random.key(2)
LARGEST = np.finfo(np.float32).max
PERTURBED = jax.jit(statistics.perturbed, static_argnums=4)


def test_bits_and_their_two_factors_are_those_of_a_known_density():
    images = np.concatenate([tiny.images(5), tiny.hard_images()])
    known = tiny.known_statistics(KEY, images)
    assert known[:, 0].min() < 8 < known[:, 0].max()  # both sides of the guard
    flow = tiny.gaussian()
    bits, latent_bits = (jax.jit(f) for f in (statistics.bits, statistics.latent_bits))
    np.testing.assert_allclose(bits(flow, KEY, images), known[:, 0], rtol=1e-5)
    found = np.stack(latent_bits(flow, KEY, images), axis=1)
    np.testing.assert_allclose(found, known, rtol=1e-5, atol=1e-5)


def test_a_density_without_a_latent_is_refused_by_who_looks_at_it():
    statistics.check_latent(tiny.gaussian(), "X")
    statistics.check_latent(small.blank_flow(), "X")
    with pytest.raises(InputError, match="X looks at the flow's latent, and this flow has no"):
        statistics.check_latent(small.gaussian(), "X")
    with pytest.raises(InputError, match="this flow has no forward_and_log_det"):
        statistics.latent_bits(small.gaussian(), KEY, small.images(1))


def test_without_noise_an_image_is_as_it_was_dequantised():
    images = small.images(6)
    plain = jax.jit(statistics.dequantised)(KEY, images)
    np.testing.assert_array_equal(jnp.floor(plain * 256), images)
    np.testing.assert_array_equal(PERTURBED(KEY, images, jnp.zeros(6), 0), plain)
    other = PERTURBED(KEY, images, jnp.zeros(6), 1)
    np.testing.assert_array_equal(jnp.floor(other * 256), images)
    assert jnp.all(jnp.any(other != plain, axis=(1, 2, 3)))  # a draw has its own dequantisation


def test_an_images_noise_has_its_scale_and_depends_on_key_and_image_alone():
    images = small.images(40, shape=(16, 16, 3))
    scales = jnp.linspace(0.1, 2.0, 40)
    found = PERTURBED(KEY, images, scales, 0)
    noise = found - jax.jit(statistics.dequantised)(KEY, images)
    spread = jnp.std(noise, axis=(1, 2, 3)) / scales
    np.testing.assert_allclose(spread, 1.0, atol=4.5 / np.sqrt(2 * 768))
    backwards = PERTURBED(KEY, images[::-1], scales[::-1], 0)
    np.testing.assert_allclose(backwards[::-1], found, rtol=1e-6, atol=1e-6)
    other = PERTURBED(jax.random.key(3), images, scales, 0)
    assert float(jnp.abs(other - found).mean(axis=(1, 2, 3)).min()) > 0.05


@pytest.mark.parametrize(("count", "antithetic"), [(1, False), (3, False), (4, True)])
def test_perturbed_bits_are_the_mean_over_the_draws_each_guarded(count, antithetic):
    flow, images = tiny.gaussian(0.1), tiny.images(7)
    scales = jnp.linspace(0.0, 1.0, 7)
    found = jax.jit(perturbed_bits)(flow, Draws(count, antithetic), KEY, (images, scales))
    each = []
    for index in range(count):
        x = PERTURBED(KEY, images, scales, index, antithetic)
        nats = flow.log_prob(KEY, x)
        each.append(guard(8 - nats / (tiny.D * np.log(2))))
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5)


@pytest.mark.parametrize(("count", "antithetic"), [(1, False), (4, False), (2, True)])
def test_noise_variance_of_a_gaussian_flow_is_the_closed_form(count, antithetic):
    """One draw costs |d + sigma z|^2 / 2 s^2: its variance is that of a chi-square."""
    sigma, scale, images = 0.05, 0.3, tiny.images(6)
    run = jax.jit(perturbed_bits)
    at = (jnp.asarray(images), jnp.full(6, sigma))
    flow, draws = tiny.gaussian(scale), Draws(count, antithetic)
    runs = np.stack([run(flow, draws, jax.random.key(i), at) for i in range(300)])
    distance = (images.reshape(6, -1) + 0.5) / 256 - 0.45
    even = 2 * sigma**4 * tiny.D
    odd = 4 * sigma**2 * np.sum(distance**2, axis=1)  # cancels in a pair
    per_draw = (even + (0 if antithetic else odd)) / (2 * scale**2 * tiny.D * np.log(2)) ** 2
    expected = per_draw / (1 if antithetic else count)
    # The guard shrinks what costs more than 8 bits/dim.
    cost = 8 + np.log2(scale * np.sqrt(2 * np.pi))
    cost += (np.sum(distance**2, axis=1) / tiny.D + sigma**2) / (2 * scale**2 * np.log(2))
    slope = np.where(cost > 8, 1 / (1 + np.maximum(cost - 8, 0)), 1.0)
    found = np.var(np.float64(runs), axis=0, ddof=1).mean()
    assert found == pytest.approx(np.mean(expected * slope**2), rel=0.2)


def test_two_draws_of_the_largest_cost_have_a_finite_mean():
    nowhere = Flow(lambda variables, key, x: jnp.full(x.shape[0], -jnp.inf), {})
    at = (small.images(3), jnp.ones(3))
    np.testing.assert_array_equal(perturbed_bits(nowhere, Draws(2), KEY, at), LARGEST)


@pytest.mark.parametrize(
    ("count", "antithetic"), [(0, False), (-1, False), (3, True), (1.5, False), (True, False)]
)
def test_senseless_draws_are_refused(count, antithetic):
    with pytest.raises(InputError, match=f"draws is {count}; expected an? (whole|even) number"):
        Draws(count, antithetic)


def test_draws_are_static_so_that_another_number_is_another_program():
    assert jax.tree.leaves(Draws(4, True)) == []
    assert Draws(2) == Draws(2) and hash(Draws(2)) == hash(Draws(2)) and Draws(2) != Draws(4)


def test_similarity_is_the_cosine_to_the_nearest_item_of_the_bank():
    train, images = small.images(30), small.images(7, seed=1)
    bank = memory.build(encoders.pixels(), train)
    rows = [x.reshape(len(x), -1).astype(np.float64) for x in (images, train)]
    expected = np.corrcoef(*rows)[:7, 7:].max(axis=1)
    found = statistics.similarity(encoders.pixels(), bank, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(statistics.similarity(encoders.pixels(), bank, train), 1, atol=1e-5)


def test_the_guard_is_finite_monotone_and_the_identity_up_to_eight_bits():
    bits = jnp.array([-jnp.inf, -3, 0, 7.99, 8, 8.01, 100, 1e15, 1e38, jnp.inf, jnp.nan])
    guarded = np.asarray(guard(bits))
    small.assert_finite(guarded)
    np.testing.assert_array_equal(guarded[1:5], np.asarray(bits)[1:5])
    assert np.all(np.diff(guarded[:9]) > 0)
    assert guarded[9] >= guarded[8] and guarded[10] >= guarded[8]
    assert guarded[7] < 50
    np.testing.assert_allclose(guarded[6], 8 + np.log(93), rtol=1e-6)


def test_the_signed_guard_is_the_guard_in_both_directions():
    values = jnp.array([-1e30, -100.0, -8.0, -3.0, 0.0, 3.0, 8.0, 100.0, 1e30])
    guarded = np.asarray(signed_guard(values))
    np.testing.assert_array_equal(guarded[4:], guard(values[4:]))
    np.testing.assert_array_equal(guarded, -guarded[::-1])


def test_scores_that_are_no_numbers_are_the_most_odd():
    found = statistics.finite(jnp.array([1.5, jnp.nan, jnp.inf, -jnp.inf]))
    np.testing.assert_array_equal(found, np.float32([1.5, LARGEST, LARGEST, -LARGEST]))


def test_a_reference_is_medians_and_interquartile_ranges_whatever_explodes():
    rows = np.random.default_rng(0).normal([[3.0], [-200.0]], [[1.0], [5.0]], (2, 1000))
    found = reference(rows)
    low, middle, high = np.quantile(rows, [0.25, 0.5, 0.75], axis=1)
    np.testing.assert_allclose(found.centre, middle, rtol=1e-6)
    np.testing.assert_allclose(found.spread, high - low, rtol=1e-5)
    assert found.centre.dtype == found.spread.dtype == jnp.float32
    exploded = rows.copy()
    exploded[:, :3] = LARGEST
    for one, other in zip(found, reference(exploded), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.02)


def test_standardised_statistics_have_median_0_and_range_1_and_what_differs_from_alike_is_odd():
    rows = np.float32(np.random.default_rng(1).gamma(2.0, size=(3, 500)))
    rows[1] = 7.0  # does not vary
    found = np.asarray(standardise(list(rows), reference(rows)))
    again = reference(found)
    np.testing.assert_allclose(again.centre, 0.0, atol=1e-5)
    np.testing.assert_allclose(again.spread, [1, statistics.RESOLUTION, 1], atol=1e-5)
    np.testing.assert_array_equal(found[1], 0.0)
    strange = standardise([np.float32([7.0 + 1e-6, 6.0, 9.0])] * 3, reference(rows))[1]
    np.testing.assert_allclose(strange, [0, -1e4, 2e4], atol=0.1, rtol=1e-4)
    without = statistics.Reference(np.zeros(3, np.float32), np.zeros(3, np.float32))
    np.testing.assert_array_equal(standardise(list(rows), without), np.zeros(rows.shape))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
def test_what_is_not_finite_is_broken_in_every_float(dtype):
    with jax.enable_x64(True):
        rows = jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 1.5], dtype)
        made = statistics.finite(rows)
        assert statistics.broken(made).tolist() == [True, True, True, False]
        largest = statistics.LARGEST
        assert made.astype(jnp.float32).tolist() == [largest, largest, -largest, 1.5]
