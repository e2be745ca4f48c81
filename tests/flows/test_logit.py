import jax.numpy as jnp
import numpy as np

from ecood.flows.logit import Logit


def test_it_is_the_papers_logit_on_images():
    x = jnp.linspace(0.0, 1.0, 101).reshape(1, -1)
    z, log_det = Logit(0.05).apply({}, x, method="forward_and_log_det")
    p = 0.05 + 0.9 * np.float64(x)
    np.testing.assert_allclose(z, np.log(p / (1 - p)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_det, np.log(0.9 / (p * (1 - p))).sum(), rtol=1e-5)
