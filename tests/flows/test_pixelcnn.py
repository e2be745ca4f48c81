import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from ecood import flows
from ecood.baselines import complexity_latent, dose_kde, intrinsic_dimension
from ecood.errors import InputError
from ecood.flows import PixelCNN
from ecood.flows.pixelcnn import LogisticMixture, log_density
from tests import small

MODULE = PixelCNN((8, 8, 3), depth=1, levels=3, width=4, mixtures=3)
KEY = jax.random.key(0)
LOG_PROB = jax.jit(flows.Flow.log_prob)
MAP = jax.jit(flows.Flow.log_prob_map)
X = jnp.float32(np.random.default_rng(0).uniform(size=(4, 8, 8, 3)))


@functools.cache
def flow(module=MODULE, amount=0.3):
    return flows.bind(module, small.away(module, module.image_shape, amount))


def mixtures(x, density=None):
    density = density or flow()
    return jax.jit(functools.partial(density.density.apply, method="mixture"))(density.variables, x)


def log_of_bin(away, scale):
    """log of a logistic's mass within half a unit of `away`, from its survival function's log."""
    low, high = (scipy.stats.logistic.logsf((away + side) / scale) for side in (-0.5, 0.5))
    return low + np.log1p(-np.exp(high - low))


@pytest.mark.slow
def test_training_starts_near_the_uniform_density():
    start = flows.bind(MODULE, jax.jit(MODULE.init)(KEY, X))
    bits = flows.bits_per_dim(LOG_PROB(start, KEY, X), X.shape[1:])
    np.testing.assert_allclose(bits, 8.0, atol=0.8)


def test_a_pixel_depends_on_those_above_and_left_of_it_alone():
    """And, through the network's depth, on nearly all of them."""
    one = flow(MODULE.copy(image_shape=(8, 8, 1)))

    def nats(x):
        return one.density.apply(one.variables, x[None, ..., None], method="log_prob_map")[0]

    jacobian = jax.jit(jax.jacrev(nats))(X[0, ..., 0]).reshape(64, 64)  # of i's nats by pixel j
    np.testing.assert_array_equal(jacobian[np.triu_indices(64, 1)], 0.0)
    assert np.mean(jacobian[np.tril_indices(64)] != 0) > 0.95


@pytest.mark.slow
def test_channels_come_one_after_the_other():
    """A channel's logistics move with the pixel's earlier channels, as the coefficients say."""
    found = mixtures(X)
    assert np.all(np.triu(found.coefficients[0, 0, 0, 0]) == 0)
    assert np.all(found.coefficients[..., *np.tril_indices(3, -1)] != 0)
    for channel in range(3):
        moved = mixtures(X.at[:, 3, 4, channel].add(0.1))
        for before, after in zip(found, moved, strict=True):
            np.testing.assert_array_equal(before[:, 3, 4], after[:, 3, 4])

    def channels(pixel, upto):
        """The log-density of the first `upto` channels, by the formula of the paper."""
        mixture = jax.tree.map(lambda leaf: np.float64(leaf[0, 3, 4]), found)
        mean = mixture.mean + mixture.coefficients @ pixel
        mass = 1.0
        for c in range(upto):
            ends = (pixel[c] + np.array([[0.5], [-0.5]]) / 256 - mean[:, c]) / np.exp(
                mixture.log_scale[:, c]
            )
            high, low = scipy.special.expit(ends)
            mass = mass * (high - low) * 256
        return np.log(np.sum(np.exp(mixture.log_weight) * mass))

    pixel = np.float64(X[0, 3, 4])
    assert float(MAP(flow(), KEY, X)[0, 3, 4]) == pytest.approx(channels(pixel, 3), abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 1), (2, 1, 1), (1, 1, 2)])
def test_it_integrates_to_one(shape):
    """In one pixel, in two side by side or one above the other, and over two channels."""
    n, low, high = (400, -7.0, 8.0)
    density = flow(PixelCNN(shape, depth=1, levels=1, width=4, mixtures=3), 0.2)
    axis = low + (high - low) * (np.arange(n) + 0.5) / n
    grid = np.stack(np.meshgrid(*[axis] * np.prod(shape), indexing="ij"), axis=-1)
    x = jnp.float32(grid.reshape(-1, *shape))
    total = np.sum(np.exp(np.float64(LOG_PROB(density, KEY, x)))) * ((high - low) / n) ** x[0].size
    assert total == pytest.approx(1.0, abs=2e-3)


def test_on_integer_pixels_it_is_the_discrete_likelihood():
    """Of the paper, at the middles of the grey levels 1 to 254, with what the network tells."""
    levels = np.random.default_rng(1).integers(1, 255, (2, 8, 8, 3))
    x = jnp.float32((levels + 0.5) / 256)
    told = jax.tree.map(np.float64, mixtures(x))
    mean = told.mean + np.einsum("...kcd,...d->...kc", told.coefficients, x)
    away = np.abs(levels[..., None, :] + 0.5 - 256 * mean)  # in grey levels; logistics are even
    log_mass = np.sum(log_of_bin(away, 256 * np.exp(told.log_scale)), axis=-1)
    discrete = np.logaddexp.reduce(told.log_weight + log_mass, axis=-1)
    found = MAP(flow(), KEY, x) - 3 * np.log(256)
    np.testing.assert_allclose(found, discrete, rtol=1e-4, atol=1e-4)


def test_with_any_fixed_dequantisation_it_is_a_law_of_integers():
    """Sum over u of p((u + v) / 256) / 256 = 1 for each v, so that its bits are a code's length."""
    wide = flow(PixelCNN((1, 2, 1), depth=1, levels=1, width=4, mixtures=2), 0.2)
    u = np.arange(-700, 956, 4)  # the logistics are tens of levels wide: every fourth will do
    for v in ((0.0, 0.9), (0.5, 0.3)):
        x = np.stack(np.meshgrid(u, u, indexing="ij"), axis=-1).reshape(-1, 1, 2, 1)
        x = jnp.float32((x + np.reshape(v, (1, 1, 2, 1))) / 256)
        total = np.sum(np.exp(np.float64(LOG_PROB(wide, KEY, x)))) * (4 / 256) ** 2
        assert total == pytest.approx(1.0, abs=2e-3)


def test_narrow_logistics_leave_the_gradient_of_the_means_bounded():
    """By a nat a pixel, where in units of the pixels it would be the scale's inverse, thousands."""
    module = PixelCNN((8, 8, 1), depth=1, levels=1, width=4, mixtures=3)
    variables = flow(module, 0.0).variables
    network = variables["params"]["network"]
    (last,) = (name for name, of in network.items() if np.shape(of.get("bias")) == (9,))
    black, start = X[..., :1] / 256, np.zeros((3, 3), np.float32)  # weight, mean, scale of each
    start[:, 2] = -5.0

    def mean_nats(bias):
        biased = network | {last: network[last] | {"bias": bias.reshape(-1)}}
        return jnp.mean(module.apply({"params": {"network": biased}}, black))

    moved = jnp.asarray(start).at[:, 1].add(2.0)
    gradient = jax.jit(jax.grad(mean_nats))(moved)
    assert 16 < np.abs(gradient[:, 1]).sum() <= 64.0


@pytest.mark.parametrize("log_scale", [-8.0, -3.0, 2.0])
def test_no_mass_underflows_where_logistics_are_narrow_or_far(log_scale):
    x = np.float32([0.5, 0.501, 0.498, 0.55, 3.0, -40.0])
    arrays = ((2, 0.0), (3, 0.5), (3, log_scale), (4, 0.0))
    mixture = LogisticMixture(*(jnp.full((1,) * ndim, value) for ndim, value in arrays))
    middle = np.abs(np.float64(x) - 0.5)  # by symmetry
    expected = log_of_bin(256 * middle, 256 * np.exp(log_scale)) + np.log(256)
    found = log_density(mixture, jnp.asarray(x)[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_map_adds_up_to_the_density():
    nats = MAP(flow(), KEY, X)
    assert nats.shape == (4, 8, 8) and nats.dtype == jnp.float32
    np.testing.assert_allclose(nats.sum((1, 2)), LOG_PROB(flow(), KEY, X), rtol=1e-5)


def test_perturbed_images_have_a_finite_density_and_gradient():
    noisy = X + 0.5 * jax.random.normal(KEY, X.shape)
    for x in (noisy, 1e3 * noisy):
        small.assert_finite(LOG_PROB(flow(), KEY, x))
    small.assert_finite(jax.jit(jax.grad(lambda x: LOG_PROB(flow(), KEY, x).sum()))(noisy))


@pytest.mark.slow
def test_its_samples_have_its_density():
    """E[q(x) / p(x)] = 1 for x ~ p and a narrower normalised q, within five standard errors."""
    tiny = flow(PixelCNN((1, 2, 2), depth=1, levels=1, width=4, mixtures=2), 0.2)
    sample = jax.jit(functools.partial(tiny.density.apply, method="sample"), static_argnums=2)
    x = sample(tiny.variables, jax.random.key(3), 20_000)
    assert x.shape == (20_000, 1, 2, 2) and x.dtype == jnp.float32
    flat = np.float64(x).reshape(-1, 4)
    q = scipy.stats.multivariate_normal(np.median(flat, 0), 0.3 * np.cov(flat.T))
    ratio = np.exp(q.logpdf(flat) - np.float64(LOG_PROB(tiny, KEY, x)))
    error = ratio.std() / np.sqrt(len(ratio))
    assert error < 0.05
    assert abs(ratio.mean() - 1) < 5 * error


def test_an_image_is_independent_of_its_batch_and_bfloat16_is_close():
    one = flow(amount=0.1)
    half = flows.bind(MODULE.copy(dtype=jnp.bfloat16), one.variables)
    whole = LOG_PROB(one, KEY, X)
    np.testing.assert_allclose(LOG_PROB(one, KEY, jnp.roll(X, 1, 0))[1:], whole[:-1], rtol=1e-5)
    found = LOG_PROB(half, KEY, X)
    assert found.dtype == jnp.float32 and np.any(found != whole)
    np.testing.assert_allclose(found, whole, rtol=0.02)


def test_it_is_saved_and_read_and_has_no_latent(tmp_path):
    flows.save(tmp_path / "flow.safetensors", flow())
    again = flows.load(tmp_path / "flow.safetensors")
    assert again.density == MODULE and not again.has_latent and again.has_map
    np.testing.assert_array_equal(LOG_PROB(again, KEY, X), LOG_PROB(flow(), KEY, X))
    for make in (dose_kde, complexity_latent, intrinsic_dimension):
        with pytest.raises(InputError, match="looks at the flow's latent, and this flow has no"):
            make(again)


def test_it_lowers_for_all_platforms():
    program = jax.jit(functools.partial(MODULE.apply, method="log_prob_map"))
    exported = jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(flow().variables, X)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_sizes_that_make_no_model_are_refused():
    with pytest.raises(InputError, match="4 levels need sides divisible by 8, and .* 28 x 28"):
        PixelCNN((28, 28, 1), levels=4)
    with pytest.raises(InputError, match="mixtures is 0; expected a whole number, 1 or more"):
        PixelCNN((28, 28, 1), mixtures=0)
