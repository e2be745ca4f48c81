import functools

import chex
import jax
import numpy as np
from absl.testing import parameterized

from ecood.theory import mixture, quadrature
from tests.theory.laws import (
    Float64TestCase,
    cross_entropy,
    entropy,
    fisher_information,
    grid,
    line,
    log_probs,
    mixtures,
)


class QuadratureTest(Float64TestCase):
    grid = line(-10.0, 10.0, 801)
    density = np.exp(log_probs(mixtures(0, 1), grid.points)[0])

    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2)
    def test_integrals_against_numpy(self, dim):
        p, q, where = mixtures(1, dim), mixtures(2, dim), grid(dim)
        log_p, log_q = (log_probs(law, where.points) for law in (p, q))

        def integrals(log_p, log_q):
            return (
                quadrature.entropy(where, log_p),
                quadrature.cross_entropy(where, log_p, log_q),
                quadrature.kl(where, log_p, log_q),
            )

        own, cross = entropy(where, log_p), cross_entropy(where, log_p, log_q)
        got = self.variant(jax.vmap(integrals))(log_p, log_q)
        chex.assert_trees_all_close(got, (own, cross, cross - own), rtol=1e-9, atol=1e-9)

    @parameterized.parameters(1, 2)
    def test_fisher_information_against_numpy(self, dim):
        laws, where = mixtures(3, dim), grid(dim)

        def information(law):
            log_prob = functools.partial(mixture.log_prob, law)
            return quadrature.fisher_information(where, log_prob)

        got = jax.jit(jax.vmap(information))(laws)
        np.testing.assert_allclose(got, fisher_information(laws, where), rtol=1e-9)

    @chex.variants(with_jit=True)
    def test_perturb_with_one_scale_is_smooth(self):
        got = self.variant(quadrature.perturb)(self.grid, self.density, np.full(801, 0.4))
        expected = self.variant(quadrature.smooth)(self.grid, self.density, 0.4)
        np.testing.assert_allclose(got, expected, atol=1e-12)

    @chex.variants(with_jit=True)
    def test_perturb_keeps_mass_and_mean_and_adds_the_mean_variance(self):
        x = self.grid.axis
        sigma = 0.2 + 0.5 * np.sin(x) ** 2
        noisy = np.asarray(self.variant(quadrature.perturb)(self.grid, self.density, sigma))

        def moment(density, values):
            return np.sum(density * values) * self.grid.cell

        np.testing.assert_allclose(moment(noisy, 1.0), 1.0, rtol=1e-6)
        np.testing.assert_allclose(moment(noisy, x), moment(self.density, x), rtol=1e-6)
        added = moment(self.density, sigma**2)
        np.testing.assert_allclose(
            moment(noisy, x**2), moment(self.density, x**2) + added, rtol=1e-6
        )

    @chex.variants(with_jit=True)
    def test_empty_regions_count_for_nothing(self):
        part = np.where(self.grid.axis > 0, self.density, 0.0)
        log_part = np.asarray(self.variant(quadrature.log)(part))
        assert np.all(np.isneginf(log_part[self.grid.axis <= 0]))
        got = self.variant(quadrature.entropy)(self.grid, log_part)
        positive = self.density[self.grid.axis > 0]
        expected = -np.sum(positive * np.log(positive)) * self.grid.cell
        np.testing.assert_allclose(got, expected, rtol=1e-12)

    @parameterized.parameters(1, 2)
    def test_grid_against_numpy(self, dim):
        got = quadrature.grid(-10.0, 10.0, 201 if dim == 1 else 71, dim)
        chex.assert_trees_all_close(got, grid(dim), atol=1e-12)

    def test_points_run_with_the_last_axis_fastest(self):
        grid = quadrature.grid(0.0, 2.0, 3, 2)
        np.testing.assert_array_equal(grid.points[:4], [[0, 0], [0, 1], [0, 2], [1, 0]])
        np.testing.assert_allclose(grid.cell, 1.0)
