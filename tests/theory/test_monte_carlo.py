import chex
import jax
import numpy as np

from ecood.theory import monte_carlo
from tests.theory.laws import Float64TestCase


class MonteCarloTest(Float64TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_standard_error_covers(self):
        repeats, n = 2000, 50
        draws = jax.random.normal(jax.random.key(0), (repeats, n)) * 3.0 + 1.0
        estimate = self.variant(jax.vmap(monte_carlo.mean))(draws)
        inside = np.abs(estimate.value - 1.0) < 2.0096 * estimate.error  # Student's 95%, 49 d.o.f.
        sigma = np.sqrt(0.95 * 0.05 / repeats)
        assert abs(inside.mean() - 0.95) < 4 * sigma
