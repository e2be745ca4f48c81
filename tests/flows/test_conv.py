"""Every form of the convolution, and the derivatives written by hand, against XLA's own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.flows import three_layers as forms
from ecood.flows.conv import conv
from ecood.flows.three_layers import batch_first, batch_last, three_layers


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


def network(dtype=jnp.float32):
    """Input, kernels, biases."""
    x, *parameters = random(
        (3, 4, 6, 2), (3, 3, 2, 7), (1, 1, 7, 7), (3, 3, 7, 4), (7,), (7,), (4,)
    )
    x, parameters = jax.tree.map(lambda a: a.astype(dtype), (x, parameters))
    return batch_last(x), tuple(parameters[:3]), tuple(parameters[3:])


def test_three_layers():
    def theirs(x, kernels, biases):
        return batch_last(reference_layers(batch_first(x), kernels, biases))

    assert_same_values_and_gradients(three_layers, theirs, *network())


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
def test_the_forms_of_three_layers_keep_and_return_the_same(dtype, tolerance):
    x, kernels, biases = network(dtype)

    def both(forward, backward):
        out, *hidden = forward(x, kernels, biases)
        return out, hidden, backward(x, *hidden, kernels, out)

    matmul = jax.jit(both, static_argnums=(0, 1))(forms._matmul_forward, forms._matmul_backward)
    xla = jax.jit(both, static_argnums=(0, 1))(forms._xla_forward, forms._xla_backward)
    chex.assert_trees_all_equal_shapes_and_dtypes(matmul, xla)
    assert {leaf.dtype for leaf in jax.tree.leaves(matmul)} == {jnp.dtype(dtype)}
    for a, b in zip(*(jax.tree.leaves((m[0], m[2])) for m in (matmul, xla)), strict=True):
        a, b = np.float32(a), np.float32(b)
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())
