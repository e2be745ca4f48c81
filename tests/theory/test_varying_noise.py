"""What fails when the noise scale depends on the point through more than a known index."""

import chex
import jax
import numpy as np

from ecood.theory import bounds, expansion, quadrature
from tests.theory.laws import Float64TestCase, entropy, line, valley


def normal(x):
    return np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)


class MultiplicativeNoiseTest(Float64TestCase):
    """Y = +-exp(G), G ~ N(0, v), and sigma(y) = c |y|: Y' has the law of Y (1 + c Z)."""

    share, variance = 0.5, 25.0

    def setUp(self):
        super().setUp()
        self.log_y = np.linspace(-33.0, 33.0, 1321)
        self.step = self.log_y[1] - self.log_y[0]
        self.mass = normal(self.log_y / 5.0) / 5.0 * self.step
        self.entropy = np.log(2.0) + 0.5 * np.log(2 * np.pi * np.e * self.variance)
        # log |1 + c Z|, whose mean and variance decide.
        log_factor = np.linspace(-40.0, 3.0, 8601)
        sides = [normal((sign * np.exp(log_factor) - 1) / self.share) for sign in (1, -1)]
        mass = sum(sides) * np.exp(log_factor) / self.share * (log_factor[1] - log_factor[0])
        np.testing.assert_allclose(mass.sum(), 1.0, atol=1e-7)
        self.factor_mean = mass @ log_factor
        self.factor_variance = mass @ log_factor**2 - self.factor_mean**2

    def noisy_entropy(self):
        """H(Y + c |Y| Z) from the density itself, at points u = exp(log_y) and by symmetry -u."""
        ratio = np.exp(self.log_y[:, None] - self.log_y[None, :])  # u / y
        kernel = normal((ratio - 1) / self.share) + normal((ratio + 1) / self.share)
        y = np.exp(self.log_y)
        density = 0.5 * kernel @ (self.mass / (self.share * y))
        volume = 2 * y * self.step
        np.testing.assert_allclose(np.sum(density * volume), 1.0, atol=1e-6)
        return -np.sum(density * np.log(density) * volume)

    @chex.variants(with_jit=True)
    def test_entropy_falls_below_that_before_noise(self):
        noisy = self.noisy_entropy()
        np.testing.assert_allclose(noisy - self.entropy, -0.162, atol=5e-4)
        proved = 0.5 * np.log1p(self.factor_variance / self.variance) + self.factor_mean
        assert noisy - self.entropy <= proved
        # So the entropy power inequality cannot hold here, for any average of sigma(Y).
        fixed = self.variant(bounds.fixed_noise, static_argnums=2)
        for sigma in (0.0, 0.1, self.share):
            assert noisy < fixed(self.entropy, sigma, 1)
        # What holds for any noise scale still does; E log sigma(Y) = log c + E G.
        assert noisy > self.variant(bounds.arbitrary_noise, static_argnums=1)(np.log(self.share), 1)

    def test_entropy_given_the_noise_falls_by_the_log_jacobian(self):
        """For fixed z the map y -> y + c y z is linear: H(Y' | Z) = H(Y) + E log |1 + c Z|."""
        assert self.factor_mean < -0.1
        small = 0.05
        z = np.linspace(-12.0, 12.0, 24_001)
        mean = np.sum(normal(z) * np.log(np.abs(1 + small * z))) * (z[1] - z[0])
        np.testing.assert_allclose(mean, -(small**2) / 2, rtol=0.02)  # negative to second order


class ValleyTest(Float64TestCase):
    """Noise between two modes, where the points are least like the modes, lowers the entropy."""

    def setUp(self):
        super().setUp()
        self.log_prob = valley(distance=1.5, scale=0.8)
        self.grid = line(-10.0, 10.0, 601)
        self.log_p = np.asarray(jax.jit(jax.vmap(self.log_prob))(self.grid.points))
        self.clean = entropy(self.grid, self.log_p)

    def noisy_entropy(self, sigma):
        noisy = quadrature.perturb(self.grid, np.exp(self.log_p), sigma)
        return quadrature.entropy(self.grid, quadrature.log(noisy))

    def rate(self, variance):
        return expansion.entropy_rate(self.grid, self.log_prob, variance)

    @chex.variants(with_jit=True)
    def test_entropy_falls(self):
        bump = np.exp(-0.5 * (self.grid.axis / 0.5) ** 2)
        noisy = self.variant(self.noisy_entropy)
        np.testing.assert_allclose(noisy(0.04 + 0.5 * bump) - self.clean, -0.018, atol=5e-4)
        assert noisy(np.full(bump.shape, 0.53)) > self.clean + 0.05
        rate = self.variant(self.rate)
        assert rate(bump**2) < 0 < rate(np.ones_like(bump))

    @chex.variants(with_jit=True)
    def test_entropy_rate_is_the_derivative(self):
        variance = 0.6 + 0.4 * np.sin(1.3 * self.grid.axis)
        noisy = self.variant(self.noisy_entropy)

        def slope(t):
            return (noisy(np.sqrt(t * variance)) - self.clean) / t

        extrapolated = 2 * slope(0.01) - slope(0.02)  # without the term linear in t
        np.testing.assert_allclose(self.variant(self.rate)(variance), extrapolated, rtol=1e-3)
