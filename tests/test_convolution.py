"""Convolutions, and their derivatives written by hand, in both forms against XLA's own."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import convolution
from ecood.convolution import (
    batch_first,
    batch_last,
    conv,
    depthwise_conv,
    shifted_conv,
    three_layers,
)
from ecood.dense import dense

TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 0.02}  # of the largest value


def xla(x, kernel, stride=1, padding="SAME", groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def xla_layers(x, kernels, biases):
    x = batch_first(x)
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        x = xla(jax.nn.relu(x) if i else x, kernel) + bias.reshape(1, 1, 1, -1)
    return batch_last(x)


def random(dtype, *shapes):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def on_cpu(function, *arguments):
    return jax.jit(function)(*arguments)


def on_gpu(function, *arguments):
    """As compiled for a GPU, where all products are XLA's convolutions, but run here."""
    checks = [jax.export.DisabledSafetyCheck.platform()]
    program = jax.export.export(jax.jit(function), platforms=["cuda"], disabled_checks=checks)(
        *arguments
    )
    code = program.mlir_module()
    assert "stablehlo.convolution" in code and "dot_general" not in code
    return program.call(*arguments)


@functools.cache
def with_derivatives(function):
    """The function's value, and its derivatives along a cotangent: compiled once for a shape."""

    @jax.jit
    def value_and_derivatives(cotangent, *arguments):
        value, pull_back = jax.vjp(function, *arguments)
        return value, pull_back(cotangent.astype(value.dtype))

    return value_and_derivatives


def assert_agree(run, ours, theirs, *arguments):
    """Values and derivatives, those of `theirs` in float32."""
    precise = jax.tree.map(jnp.float32, arguments)
    (cotangent,) = random(jnp.float32, jax.eval_shape(theirs, *precise).shape)
    found = jax.tree.leaves(run(with_derivatives(ours), cotangent, *arguments))
    expected = jax.tree.leaves(with_derivatives(theirs)(cotangent, *precise))
    dtype = jax.tree.leaves(arguments)[0].dtype
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        atol = TOLERANCE[dtype.type] * np.abs(b).max()
        np.testing.assert_allclose(np.float32(a), b, rtol=0, atol=atol)


@pytest.mark.parametrize("run", [on_cpu, on_gpu])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 5), (5, 2)])
def test_conv(run, dtype, size, inputs, outputs):
    arguments = random(dtype, (3, 4, 6, inputs), (size, size, inputs, outputs))
    assert_agree(run, conv, xla, *arguments)


@pytest.mark.parametrize("run", [on_cpu, on_gpu])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("sizes", "outputs"), [((3, 1, 3), 4), ((1, 5, 3), 9)])
def test_three_layers(run, dtype, sizes, outputs):
    channels = (2, 7, 7, outputs)
    shapes = [(size, size, *channels[i : i + 2]) for i, size in enumerate(sizes)]
    x, *kernels = random(dtype, (2, 4, 6, 3), *shapes)
    biases = random(dtype, *((n,) for n in channels[1:]))
    assert_agree(run, three_layers, xla_layers, x, tuple(kernels), biases)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_hidden_layer_is_kept_if_it_is_wide_and_nothing_else_changes(monkeypatch, dtype):
    x, *kernels = random(dtype, (2, 4, 6, 3), (3, 3, 2, 7), (1, 1, 7, 7), (3, 3, 7, 4))
    arguments = x, tuple(kernels), random(dtype, (7,), (7,), (4,))

    def kept_and_derivatives():
        kept = jax.eval_shape(lambda *given: jax.vjp(three_layers, *given)[1], *arguments)
        shapes = [leaf.shape for leaf in jax.tree.leaves(kept)]
        pull_back = jax.jit(lambda *given: jax.vjp(three_layers, *given)[1](three_layers(*given)))
        return shapes.count((7, 4, 6, 3)), pull_back(*arguments)

    none, again = kept_and_derivatives()
    monkeypatch.setattr(convolution, "NARROW", 6)
    one, read = kept_and_derivatives()
    assert (none, one) == (0, 1)
    chex.assert_trees_all_close(again, read, rtol=1e-6)


@pytest.mark.parametrize("run", [on_cpu, on_gpu])
@pytest.mark.parametrize(("size", "stride", "side"), [(3, 1, 7), (3, 2, 8), (5, 2, 11)])
def test_depthwise_conv(run, size, stride, side):
    arguments = random(jnp.float32, (2, side, side, 6), (size, size, 1, 6))
    assert_agree(
        run,
        lambda x, kernel: depthwise_conv(x, kernel, stride),
        lambda x, kernel: xla(x, kernel, stride, "VALID", groups=6),
        *arguments,
    )


def test_batch_last_and_first_undo_one_another():
    (x,) = random(jnp.float32, (2, 3, 4, 5))
    assert batch_last(x).shape == (5, 3, 4, 2)
    np.testing.assert_array_equal(batch_first(batch_last(x)), x)


TAPS = ((-2, 1), (-1, 0), (0, -1), (0, 0))


def padded_sum(x, kernel, bias):
    padded = jnp.pad(x, ((0, 0), (2, 2), (1, 1), (0, 0)))
    seen = [padded[:, 2 + i : 7 + i, 1 + j : 5 + j] for i, j in TAPS]
    terms = [jnp.einsum("chwb,cd->dhwb", s, k) for s, k in zip(seen, kernel, strict=True)]
    return sum(terms) + bias.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("c_in", "c_out"), [(2, 3), (3, 2)])
def test_a_shifted_convolution_sees_its_taps_and_nothing_else(dtype, c_in, c_out):
    x, kernel, bias = random(dtype, (c_in, 5, 4, 2), (len(TAPS), c_in, c_out), (c_out,))
    assert_agree(
        on_cpu, lambda *a: shifted_conv(*a, TAPS).astype(dtype), padded_sum, x, kernel, bias
    )
    assert shifted_conv(x, kernel, bias, TAPS).dtype == jnp.float32


def three_arguments(dtype):
    x, *parameters = random(
        dtype, (2, 4, 4, 2), (3, 3, 2, 5), (1, 1, 5, 5), (3, 3, 5, 2), (5,), (5,), (2,)
    )
    return x, tuple(parameters[:3]), tuple(parameters[3:])


TWICE = {
    "conv": (conv, xla, lambda dtype: random(dtype, (1, 3, 3, 2), (3, 3, 2, 2))),
    "three_layers": (three_layers, xla_layers, three_arguments),
    "shifted_conv": (
        lambda *arguments: shifted_conv(*arguments, TAPS),
        padded_sum,
        lambda dtype: random(dtype, (2, 5, 4, 2), (len(TAPS), 2, 3), (3,)),
    ),
    "dense": (
        dense,
        lambda x, kernel, bias: x @ kernel + bias[None],
        lambda dtype: random(dtype, (3, 5), (5, 4), (4,)),
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives_are_those_of_the_plain_form(name):
    """Of inputs and parameters, in both orders that JAX has for a Hessian times a vector."""
    ours, plain, arguments = TWICE[name]
    at = arguments(jnp.float32)
    along = jax.tree.map(lambda leaf: jnp.cos(7 * leaf), at)

    def gradient(layer, at):
        return jax.grad(lambda at: jnp.sum(jnp.tanh(layer(*at)) ** 2))(at)

    def forward(layer):
        return jax.jvp(functools.partial(gradient, layer), (at,), (along,))[1]

    def reverse(layer):
        pull_back = jax.vjp(functools.partial(gradient, layer), at)[1]
        return pull_back(along)[0]

    for product in (forward, reverse):
        found, expected = jax.tree.leaves(product(ours)), jax.tree.leaves(forward(plain))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("name", TWICE)
def test_bfloat16_has_first_derivatives_alone_and_says_so(name):
    ours, _, arguments = TWICE[name]
    at = arguments(jnp.bfloat16)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.float32(ours(x, *at[1:])) ** 2))(x)

    assert gradient(at[0]).dtype == jnp.bfloat16
    for twice in (
        lambda: jax.jvp(gradient, at[:1], at[:1]),
        lambda: jax.grad(lambda x: jnp.sum(jnp.float32(gradient(x))))(at[0]),
    ):
        with pytest.raises(TypeError, match="bfloat16 products have no second derivatives"):
            twice()
