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


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, np.inf, -np.inf, np.nan])
def test_the_gradient_of_a_kernel_is_there_whatever_its_first_value(value):
    x, kernel, bias = inputs(jnp.bfloat16)
    kernel = kernel.at[0, 0].set(value)
    gradient = jax.jit(jax.grad(lambda w: dense(x, w, bias).sum()))(kernel)
    expected = jnp.sum(x.astype(jnp.float32), axis=(0, 1))[:, None]
    np.testing.assert_allclose(np.float32(gradient), np.tile(expected, (1, 4)), rtol=2e-2)


def test_what_a_cpu_multiplies_in_bfloat16_it_does_in_the_gradients_too():
    n, k, m = 256, 96, 48
    x, kernel = jnp.ones((n, k), jnp.bfloat16), jnp.ones((k, m), jnp.bfloat16)

    def converted(f):
        text = jax.jit(f).lower(x, kernel, jnp.ones(m)).compile().as_text()
        return any(f"f32[{shape}]" in text for shape in (f"{n},{k}", f"{k},{n}"))

    if converted(dense):
        pytest.skip("this machine converts bfloat16 to multiply")

    def gradient(x, kernel, bias):
        return jax.grad(lambda kernel: jnp.sum(dense(x, kernel, bias) ** 2))(kernel)

    assert not converted(gradient)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_strict_promotion_is_no_obstacle(dtype):
    with jax.numpy_dtype_promotion("strict"):
        jax.grad(lambda kernel, x, bias: jnp.sum(dense(x, kernel, bias)))(
            *(inputs(dtype)[i] for i in (1, 0, 2))
        )


def test_float64_stays():
    with jax.enable_x64(True):
        assert dense(*inputs(jnp.float64)).dtype == jnp.float64
