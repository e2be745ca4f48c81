import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.flows.logit import STEEPEST, Logit


def forward(margin, x):
    return Logit(margin).apply({}, jnp.float32(x).reshape(1, -1), method="forward_and_log_det")


@pytest.mark.parametrize("margin", [0.05, 1e-4, 1e-6])
def test_it_is_the_papers_logit_on_images(margin):
    x = (np.arange(256.0) + 0.5) / 256
    z, log_det = forward(margin, x)
    p = margin + (1 - 2 * margin) * x
    np.testing.assert_allclose(z[0], np.log(p / (1 - p)), rtol=1e-4, atol=1e-6)
    slope = (1 - 2 * margin) / (p * (1 - p))
    np.testing.assert_allclose(log_det[0], np.log(slope).sum(), rtol=1e-5)


def test_beyond_images_it_goes_on_by_its_tangent():
    z, _ = forward(0.05, [0.0, 1.0, -0.5, 1.5])
    tangent = 0.9 / (0.05 * 0.95)
    np.testing.assert_allclose(z[0, 2:] - z[0, :2], [-0.5 * tangent, 0.5 * tangent], rtol=1e-5)
    log_dets = [float(forward(0.05, [x])[1][0]) for x in (-0.5, -1e-6, 0.0, 1.0, 1 + 1e-6, 1.5)]
    np.testing.assert_allclose(log_dets, np.log(tangent), rtol=1e-4)


def test_but_not_more_steeply_than_a_unit_for_a_grey_level():
    z, _ = forward(1e-6, [0.0, -1 / 256, 1.0, 1 + 3 / 256])
    np.testing.assert_allclose(z[0, [0, 2]] - z[0, [1, 3]], [1.0, -3.0], rtol=1e-4)
    np.testing.assert_allclose(forward(1e-6, [-0.1])[1], np.log(STEEPEST), rtol=1e-6)


def test_every_perturbed_image_has_a_finite_value():
    x = 5.0 * jax.random.normal(jax.random.key(0), (1, 10_000))
    z, log_det = forward(1e-4, x)
    assert jnp.all(jnp.isfinite(z)) and jnp.all(jnp.isfinite(log_det))
    order = jnp.argsort(x[0])
    assert jnp.all(jnp.diff(z[0, order]) >= 0)
