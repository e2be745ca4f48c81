"""What holds for every layer and every flow. A new one is tested by one line in `CASES`."""

import functools
import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ecood.flows
from ecood.errors import InputError
from ecood.flows.coupling import AffineCoupling
from ecood.flows.glow import Glow, GlowStep
from ecood.flows.jet import Jet
from ecood.flows.layers import ActNorm, InvertibleConv, Squeeze
from ecood.flows.logit import Logit
from ecood.flows.patches import PatchFlow
from ecood.flows.residual import ResidualFlow, ResidualStep
from ecood.flows.tarflow import TarFlow
from ecood.theory import expansion
from tests import small

EXACT = 1024  # probes: more than the dimensions, so that nothing is estimated
BATCH = 3
SAMPLES = 2000


class Case(NamedTuple):
    """A layer or a flow.

    `make` takes the dtype of the networks inside; `shape` is that of one input. A layer with a
    `plane` keeps its form on inputs of shape (1, 1, 2), where densities can be integrated.
    """

    make: Callable[[Any], nn.Module]
    shape: tuple[int, int, int]
    plane: bool = True


CASES = {
    "act_norm": Case(lambda dtype: ActNorm(), (2, 3, 2)),
    "invertible_conv": Case(lambda dtype: InvertibleConv(), (2, 3, 4)),
    "affine_coupling": Case(lambda dtype: AffineCoupling(8, dtype), (3, 2, 4)),
    "squeeze": Case(lambda dtype: Squeeze(), (4, 2, 3), plane=False),
    "logit": Case(lambda dtype: Logit(0.05), (2, 3, 2)),
    "steep_logit": Case(lambda dtype: Logit(1e-3), (2, 3, 2)),
    "glow_step": Case(lambda dtype: GlowStep(8, dtype), (2, 3, 4)),
    "residual_step": Case(lambda dtype: ResidualStep(8, probes=EXACT), (2, 3, 2)),
    "glow": Case(lambda dtype: Glow((4, 4, 2), 2, 2, 8, dtype), (4, 4, 2), plane=False),
    "glow_1": Case(lambda dtype: Glow((2, 2, 1), 2, 1, 8, dtype), (2, 2, 1), plane=False),
    "residual_flow": Case(
        lambda dtype: ResidualFlow((4, 4, 2), 2, 2, 8, 0.01, probes=EXACT), (4, 4, 2), plane=False
    ),
    "residual_flow_1": Case(
        lambda dtype: ResidualFlow((2, 2, 1), 2, 1, 8, 0.01, probes=EXACT), (2, 2, 1), plane=False
    ),
    "dense_residual_flow": Case(
        lambda dtype: ResidualFlow(
            (4, 4, 2), 2, 2, 8, 0.01, probes=EXACT, squeeze_first=False, dense=2, dense_width=8
        ),
        (4, 4, 2),
        plane=False,
    ),
    "dense_residual_flow_1": Case(
        lambda dtype: ResidualFlow(
            (2, 2, 1), 1, 1, 8, 0.01, probes=EXACT, squeeze_first=False, dense=1, dense_width=8
        ),
        (2, 2, 1),
        plane=False,
    ),
    "jet": Case(
        lambda dtype: Jet((4, 4, 1), 3, 1, 8, patch=2, dtype=dtype), (4, 4, 1), plane=False
    ),
    "jet_1": Case(
        lambda dtype: Jet((2, 2, 1), 2, 1, 8, patch=2, margin=0.05, dtype=dtype),
        (2, 2, 1),
        plane=False,
    ),
    "tar_flow": Case(
        lambda dtype: TarFlow((4, 4, 2), 3, 1, 8, patch=2, dtype=dtype), (4, 4, 2), plane=False
    ),
    "tar_flow_1": Case(
        lambda dtype: TarFlow((2, 2, 1), 2, 1, 8, patch=1, margin=0.05, dtype=dtype),
        (2, 2, 1),
        plane=False,
    ),
}
# Op by op, only more of the same as with one level, two blocks, or a dense step beside.
MORE = ("glow", "residual_flow", "dense_residual_flow", "residual_flow_1", "jet", "tar_flow")
LONG = ("residual_flow", "dense_residual_flow", "dense_residual_flow_1")  # to compile
FLOWS = [name for name, case in CASES.items() if hasattr(case.make(None), "log_prob")]
KEY = jax.random.key(0)


def over(names):
    """A test of each of these cases, slow where it compiles long."""
    marked = [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in names]
    return pytest.mark.parametrize("name", marked)


def test_no_layer_or_flow_is_left_out():
    modules = [
        importlib.import_module(f"ecood.flows.{found.name}")
        for found in pkgutil.iter_modules(ecood.flows.__path__)
    ]
    ours = {
        thing
        for module in modules
        for thing in vars(module).values()
        if hasattr(thing, "forward_and_log_det") and thing.__module__ == module.__name__
    }
    ours -= {PatchFlow, ecood.flows.Flow}  # what two share, what holds any
    assert {type(case.make(None)) for case in CASES.values()} == ours
    with_latent = {m for m in ecood.flows.MODULES.values() if hasattr(m, "forward_and_log_det")}
    assert with_latent <= ours


@functools.cache
def initialised(name: str, shape: tuple[int, int, int]):
    """(module, variables, x [BATCH, *shape]), the parameters away from their special start."""
    module = CASES[name].make(jnp.float32)
    x = jnp.float32(np.random.default_rng(0).uniform(size=(BATCH, *shape)))
    options = {"method": "forward_and_log_det"}
    if "residual" not in name:
        return module, small.away(module, shape, 0.1, **options), x
    rngs = {"params": jax.random.key(1), "probe": KEY}
    variables = jax.jit(functools.partial(module.init, **options))(rngs, x)  # its norms are known
    return module, {k: small.moved(v, 0.1 * (k == "params")) for k, v in variables.items()}, x


@functools.cache
def compiled(module: nn.Module, method: str):
    """`method` as a jitted function of (variables, x)."""
    return jax.jit(
        lambda variables, x: module.apply(variables, x, method=method, rngs={"probe": KEY})
    )


@functools.cache
def sampler(module: nn.Module):
    """A jitted function of (variables, key, n)."""
    return jax.jit(functools.partial(module.apply, method="sample"), static_argnums=2)


@functools.cache
def samples(name: str) -> np.ndarray:
    """SAMPLES samples of a flow."""
    module, variables, _ = initialised(name, CASES[name].shape)
    return np.asarray(sampler(module)(variables, jax.random.key(3), SAMPLES))


@over(CASES)
def test_the_inverse_undoes_the_forward_pass(name):
    module, variables, x = initialised(name, CASES[name].shape)
    z, log_det = compiled(module, "forward_and_log_det")(variables, x)
    again, inverse_log_det = compiled(module, "inverse_and_log_det")(variables, z)
    np.testing.assert_allclose(again, x, atol=2e-5)
    np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-4, atol=1e-4)


@over(CASES)
def test_shapes_and_dtypes(name):
    module, variables, x = initialised(name, CASES[name].shape)
    z, log_det = compiled(module, "forward_and_log_det")(variables, x)
    assert z.size == x.size and z.shape[0] == BATCH
    assert name not in FLOWS or z.ndim == 2
    assert z.dtype == jnp.float32
    assert log_det.shape == (BATCH,) and log_det.dtype == jnp.float32
    again, inverse_log_det = compiled(module, "inverse_and_log_det")(variables, z)
    assert again.shape == x.shape and again.dtype == jnp.float32
    assert inverse_log_det.shape == (BATCH,) and inverse_log_det.dtype == jnp.float32


@over(CASES)
def test_log_det_is_that_of_the_jacobian_in_float64(name):
    _, variables, x = initialised(name, CASES[name].shape)
    with jax.enable_x64(True):
        module = CASES[name].make(jnp.float64)
        variables, x = jax.tree.map(np.float64, (variables, x))
        if "fixed" in variables:  # a rotation, now in float64
            rotations = jax.tree.map(lambda leaf: np.linalg.qr(leaf)[0], variables["fixed"])
            variables = {**variables, "fixed": rotations}

        def flat(v):
            z, log_det = module.apply(
                variables, v[None], method="forward_and_log_det", rngs={"probe": KEY}
            )
            return z.reshape(-1), log_det[0]

        jacobian, log_det = jax.jit(jax.vmap(jax.jacrev(flat, has_aux=True)))(x)
        d = x[0].size
        expected = np.linalg.slogdet(np.asarray(jacobian).reshape(BATCH, d, d))[1]
        assert log_det.dtype == jnp.float32
        np.testing.assert_allclose(log_det, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@over([name for name in CASES if name not in MORE])
def test_jit_changes_nothing(name):
    module, variables, x = initialised(name, CASES[name].shape)
    z, log_det = compiled(module, "forward_and_log_det")(variables, x)
    eager_z, eager_log_det = module.apply(
        variables, x, method="forward_and_log_det", rngs={"probe": KEY}
    )
    np.testing.assert_allclose(z, eager_z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_det, eager_log_det, rtol=1e-4, atol=1e-4)


@over(CASES)
def test_an_image_is_independent_of_its_batch(name):
    """It comes out as it does from a batch of nothing but itself."""
    module, variables, x = initialised(name, CASES[name].shape)
    run = compiled(module, "forward_and_log_det")
    for i in range(BATCH):
        itself = jnp.broadcast_to(x[i], x.shape)
        for whole, rows in zip(run(variables, x), run(variables, itself), strict=True):
            for row in np.asarray(rows):
                np.testing.assert_allclose(whole[i], row, rtol=1e-4, atol=1e-5)


@over([name for name, case in CASES.items() if case.plane])
def test_a_layer_preserves_probability(name):
    """The density of its standard normal latent integrates to one over the plane of its input."""
    module, variables, _ = initialised(name, (1, 1, 2))
    z = 6.0 * jnp.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    corners, _ = compiled(module, "inverse_and_log_det")(variables, z.reshape(-1, 1, 1, 2))
    low, high = jnp.min(corners, axis=(0, 1, 2)), jnp.max(corners, axis=(0, 1, 2))
    low, high = low - 0.5 * (high - low), high + 0.5 * (high - low)
    n = 600
    axes = [
        np.linspace(low[i], high[i], n, endpoint=False) + (high[i] - low[i]) / n / 2 for i in (0, 1)
    ]
    x = jnp.float32(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)).reshape(-1, 1, 1, 2)
    z, log_det = compiled(module, "forward_and_log_det")(variables, x)
    log_density = -0.5 * jnp.sum(z**2, axis=(1, 2, 3)) - math.log(2 * math.pi) + log_det
    cell = float(jnp.prod((high - low) / n))
    assert float(jnp.sum(jnp.exp(log_density))) * cell == pytest.approx(1.0, abs=5e-3)


@over([name for name in FLOWS if math.prod(CASES[name].shape) == 4])
def test_a_flow_is_a_normalised_density(name):
    """Importance sampling in four dimensions: E_q[p / q] = 1 within five standard errors."""
    module, variables, _ = initialised(name, CASES[name].shape)
    run = compiled(module, "log_prob")
    drawn = np.float64(samples(name)).reshape(-1, 4)
    scale = np.linalg.cholesky(np.cov(drawn.T))
    # Student's t with three degrees of freedom: tails above those of any of the flows.
    generator = np.random.default_rng(0)
    n = 100_000
    normal = generator.normal(size=(n, 4))
    radius = np.sqrt(3 / generator.chisquare(3, size=(n, 1)))
    x = drawn.mean(0) + (1.2 * radius * normal) @ scale.T
    square = np.sum((radius * normal) ** 2, 1)
    log_q = (
        math.lgamma(3.5)
        - math.lgamma(1.5)
        - 2 * math.log(3 * math.pi)
        - 3.5 * np.log1p(square / 3)
        - np.linalg.slogdet(1.2 * scale)[1]
    )
    parts = jnp.float32(x.reshape(-1, SAMPLES, 2, 2, 1))
    log_p = np.concatenate([run(variables, part) for part in parts])
    ratio = np.exp(log_p - log_q)
    error = ratio.std() / math.sqrt(n)
    assert error < 0.05
    assert abs(ratio.mean() - 1) < 5 * error


@over(FLOWS)
def test_the_latent_of_a_flow_is_standard_normal(name):
    module, variables, x = initialised(name, CASES[name].shape)
    z, log_det = compiled(module, "forward_and_log_det")(variables, x)
    expected = np.sum(scipy.stats.norm.logpdf(np.asarray(z)), axis=1) + log_det
    repeated = jnp.resize(x, (SAMPLES, *x.shape[1:]))  # as many as elsewhere: compiled once
    log_prob = compiled(module, "log_prob")(variables, repeated)[:BATCH]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-4)


@over(FLOWS)
def test_no_images_have_no_densities(name):
    module, variables, x = initialised(name, CASES[name].shape)
    flow = ecood.flows.bind(module, variables)

    def of_none(key, x):
        z, log_det = flow.forward_and_log_det(key, x)
        inverse = module.apply(variables, z, method="inverse_and_log_det", rngs={"probe": key})
        return flow.log_prob(key, x), log_det, z, *inverse, flow.sample(key, 0)

    shapes = [leaf.shape for leaf in jax.eval_shape(of_none, KEY, x[:0])]
    size = math.prod(x.shape[1:])
    none, images = (0,), (0, *x.shape[1:])
    assert shapes == [none, none, (0, size), images, none, images]
    if flow.has_map:
        assert jax.eval_shape(flow.log_prob_map, KEY, x[:0]).shape == (0, *x.shape[1:3])


@over(FLOWS)
def test_samples_are_reproducible_and_have_a_finite_likelihood(name):
    module, variables, x = initialised(name, CASES[name].shape)
    first = samples(name)
    assert first.shape == (SAMPLES, *x.shape[1:]) and first.dtype == jnp.float32
    np.testing.assert_array_equal(first, samples.__wrapped__(name))
    small.assert_finite(compiled(module, "log_prob")(variables, first))


@over(FLOWS)
def test_log_prob_is_finite_for_perturbed_images_and_float32(name):
    module, variables, _ = initialised(name, CASES[name].shape)
    rng = np.random.default_rng(4)
    x = rng.uniform(size=(SAMPLES, *CASES[name].shape))
    noisy = jnp.float32(x + 0.5 * rng.normal(size=x.shape))
    values = compiled(module, "log_prob")(variables, noisy)
    assert values.shape == (SAMPLES,) and values.dtype == jnp.float32
    small.assert_finite(values)


DENSITIES = pytest.mark.parametrize(
    "module",
    [
        ecood.flows.Glow((4, 4, 1), levels=1, depth=1, width=4),
        ecood.flows.TarFlow((4, 4, 1), depth=1, width=8),
        ecood.flows.Jet((4, 4, 1), depth=1, width=8),
        ecood.flows.PixelCNN((4, 4, 1), levels=1, depth=1, width=4, mixtures=2),
        ecood.flows.ResidualFlow((4, 4, 1), levels=1, depth=1, width=4),
    ],
    ids=lambda module: type(module).__name__,
)


@DENSITIES
def test_samples_are_the_same_float32_under_x64(module):
    x = np.random.default_rng(0).random((8, 4, 4, 1), np.float32)
    variables = module.init(jax.random.key(0), x)
    flow, key = ecood.flows.bind(module, variables), jax.random.key(1)
    without = flow.sample(key, 3)
    with jax.enable_x64(True):
        sample = flow.sample(key, 3)
    assert sample.dtype == jnp.float32
    np.testing.assert_allclose(sample, without, rtol=1e-3, atol=1e-4)


@DENSITIES
def test_a_density_has_second_derivatives_in_float32_and_refuses_them_in_bfloat16(module):
    """As `theory.expansion` takes them, forward over reverse, and in reverse alone."""
    x = np.random.default_rng(0).random((1, 4, 4, 1), np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    variables = {k: small.moved(v, 0.1 * (k == "params")) for k, v in variables.items()}

    flow = ecood.flows.bind(module, variables)

    def log_prob(pixels, flow=flow):
        return flow.log_prob(KEY, pixels.reshape(x.shape))[0]

    trace = jax.jit(functools.partial(expansion.hessian_trace, log_prob))(x.reshape(-1))
    hessian = jax.jit(jax.jacrev(jax.grad(log_prob)))(x.reshape(-1))
    assert abs(trace) > 1
    np.testing.assert_allclose(trace, jnp.trace(hessian), rtol=1e-3)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-3 * np.abs(hessian).max())
    if not hasattr(module, "dtype"):
        return
    half = ecood.flows.bind(module.clone(dtype="bfloat16"), variables)
    with pytest.raises(TypeError, match="no second derivatives here; give the flow"):
        jax.eval_shape(jax.hessian(functools.partial(log_prob, flow=half)), x.reshape(-1))


@DENSITIES
def test_images_of_another_dtype_have_the_density_of_their_values_or_are_refused(module):
    x = np.random.default_rng(0).random((2, 4, 4, 1), np.float32)
    flow = ecood.flows.bind(module, jax.jit(module.init)(jax.random.key(0), x))
    for dtype in (jnp.float16, jnp.bfloat16):
        of_half, of_same = (
            flow.log_prob(KEY, each)
            for each in (jnp.asarray(x, dtype), x.astype(dtype).astype(np.float32))
        )
        np.testing.assert_array_equal(of_half, of_same)
    for images in (np.uint8(255 * x), x > 0.5, x.astype(complex)):
        with pytest.raises(InputError, match="expected floats, pixels dequantised to"):
            flow.log_prob(KEY, images)
