"""Every form of the convolution, and the derivatives written by hand, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.flows.conv import conv, three_layers


def reference(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def reference_layers(x, kernels, biases):
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        x = reference(x, kernel) + bias.reshape(1, 1, 1, -1)
        x = jax.nn.relu(x) if i < 2 else x
    return x


def random(*shapes):
    rng = np.random.default_rng(0)
    return tuple(jnp.float32(rng.normal(size=shape)) for shape in shapes)


def assert_same_values_and_gradients(ours, theirs, *arguments):
    weights = np.random.default_rng(1).normal(size=jax.eval_shape(ours, *arguments).shape)

    def both(function):
        def weighted(*arguments):
            value = function(*arguments)
            return jnp.vdot(jnp.float32(weights), value), value

        argnums = tuple(range(len(arguments)))
        return jax.jit(jax.grad(weighted, argnums, has_aux=True))(*arguments)

    for a, b in zip(jax.tree.leaves(both(ours)), jax.tree.leaves(both(theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 5), (5, 2)])
def test_conv(size, inputs, outputs):
    x, kernel = random((3, 4, 6, inputs), (size, size, inputs, outputs))
    assert_same_values_and_gradients(conv, reference, x, kernel)


def test_three_layers():
    x, *parameters = random(
        (3, 4, 6, 2), (3, 3, 2, 7), (1, 1, 7, 7), (3, 3, 7, 4), (7,), (7,), (4,)
    )
    kernels, biases = tuple(parameters[:3]), tuple(parameters[3:])
    assert_same_values_and_gradients(three_layers, reference_layers, x, kernels, biases)
