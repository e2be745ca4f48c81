import chex
import jax.numpy as jnp
import numpy as np
from laws import Float64TestCase, log_probs, mixtures

from ecood.theory import quadrature


class QuadratureTest(Float64TestCase):
    def setUp(self):
        super().setUp()
        self.grid = quadrature.grid(-10.0, 10.0, 801, 1)
        self.density = jnp.exp(log_probs(mixtures(0, 1), self.grid.points)[0])

    @chex.variants(with_jit=True, without_jit=True)
    def test_perturb_with_one_scale_is_smooth(self):
        got = self.variant(quadrature.perturb)(self.grid, self.density, jnp.full(801, 0.4))
        expected = quadrature.smooth(self.grid, self.density, 0.4)
        np.testing.assert_allclose(got, expected, atol=1e-12)

    @chex.variants(with_jit=True, without_jit=True)
    def test_perturb_keeps_mass_and_mean_and_adds_the_mean_variance(self):
        x = self.grid.axis
        sigma = 0.2 + 0.5 * jnp.sin(x) ** 2
        noisy = self.variant(quadrature.perturb)(self.grid, self.density, sigma)

        def moment(density, values):
            return jnp.sum(density * values) * self.grid.cell

        np.testing.assert_allclose(moment(noisy, jnp.ones_like(x)), 1.0, rtol=1e-6)
        np.testing.assert_allclose(moment(noisy, x), moment(self.density, x), rtol=1e-6)
        added = moment(self.density, sigma**2)
        np.testing.assert_allclose(
            moment(noisy, x**2), moment(self.density, x**2) + added, rtol=1e-6
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_empty_regions_count_for_nothing(self):
        part = jnp.where(self.grid.axis > 0, self.density, 0.0)
        log_part = self.variant(quadrature.log)(part)
        assert np.all(np.isneginf(log_part[self.grid.axis <= 0]))
        entropy = self.variant(quadrature.entropy)(self.grid, log_part)
        positive = self.density[self.grid.axis > 0]
        expected = -jnp.sum(positive * jnp.log(positive)) * self.grid.cell
        np.testing.assert_allclose(entropy, expected, rtol=1e-12)

    def test_points_run_with_the_last_axis_fastest(self):
        grid = quadrature.grid(0.0, 2.0, 3, 2)
        np.testing.assert_array_equal(grid.points[:4], [[0, 0], [0, 1], [0, 2], [1, 0]])
        np.testing.assert_allclose(grid.cell, 1.0)
