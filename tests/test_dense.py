import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.dense import dense


def inputs(dtype):
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(3, 5, 6)), rng.normal(size=(6, 4)), rng.normal(size=4)
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), jnp.float32(bias)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_and_its_gradients_are_those_of_float32_matrices(dtype):
    given = inputs(dtype)
    found = dense(*given)
    assert found.dtype == jnp.float32
    exact = [np.float64(a) for a in given]
    np.testing.assert_allclose(found, exact[0] @ exact[1] + exact[2], rtol=1e-5, atol=1e-5)

    weight = np.random.default_rng(1).normal(size=found.shape).astype(np.float32)
    gradients = jax.jit(jax.grad(lambda *a: jnp.vdot(weight, dense(*a)), argnums=(0, 1, 2)))(*given)
    rows, seen = weight.reshape(-1, 4), exact[0].reshape(-1, 6)
    expected = (weight @ exact[1].T, seen.T @ rows, rows.sum(0))
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for gradient, values, argument in zip(gradients, expected, given, strict=True):
        assert gradient.dtype == argument.dtype
        np.testing.assert_allclose(np.float32(gradient), values, rtol=tolerance, atol=tolerance)


def test_float64_stays():
    with jax.enable_x64(True):
        assert dense(*inputs(jnp.float64)).dtype == jnp.float64
