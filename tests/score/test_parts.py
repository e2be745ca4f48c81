"""A density or an encoder that fails on in-distribution images is refused when it is fitted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows
from ecood.errors import InputError
from ecood.score import GRID, Along, choose_strength
from ecood.score.forms import PAPER, RECOMMENDED
from ecood.score.parts import check_measured
from tests import small

SPLIT = small.split(60)
DARK = 100  # of the first pixels of the held-out images two are darker


def density(broken):
    """One that gives `broken` for images whose first pixel is darker than `DARK`."""
    return flows.Flow(broken_where_dark, {"broken": jnp.float32(broken)})


def broken_where_dark(variables, key, x):
    nats = -jnp.sum(x**2, axis=(1, 2, 3))
    return jnp.where(x[:, 0, 0, 0] < DARK / 256, variables["broken"], nats)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("noise_strength", [0.1, "auto"])
def test_a_density_that_fails_on_images_is_counted(broken, noise_strength):
    with pytest.raises(InputError, match="log-density is NaN or infinite for 2 of 3 held-out"):
        ecood.score.fit(density(broken), encoders.pixels(), SPLIT, noise_strength=noise_strength)


def test_a_density_that_fails_with_noise_alone_is_refused_with_the_strength():
    def log_prob(variables, key, x):
        outside = jnp.any((x < 0) | (x >= 1), axis=(1, 2, 3))
        return jnp.where(outside, jnp.nan, -jnp.sum(x**2, axis=(1, 2, 3)))

    flow = flows.Flow(log_prob, {})
    with pytest.raises(InputError, match="for 3 of 3 held-out .* noise of strength 5; check its"):
        ecood.score.fit(flow, encoders.pixels(), SPLIT, noise_strength=5, draws=2)


@pytest.mark.parametrize("noise_strength", [0.1, "auto"])
def test_what_depends_on_the_other_images_of_a_batch_is_refused(noise_strength):
    def log_prob(variables, key, x):
        return -100 * jnp.sum((x - x.mean(0, keepdims=True)) ** 2, axis=(1, 2, 3))

    def embed(images):
        flat = images.reshape(images.shape[0], -1).astype(jnp.float32)
        return flat - flat.mean(0, keepdims=True) + 1

    options = {"noise_strength": noise_strength}
    with pytest.raises(InputError, match="flow gives an image bits/dim .* alone; expected"):
        ecood.score.fit(flows.Flow(log_prob, {}), encoders.pixels(), SPLIT, **options)
    mine = encoders.encoder(embed, name="mine")
    with pytest.raises(InputError, match="encoder mine gives an image similarity .* alone; expect"):
        ecood.score.fit(density(0.0), mine, SPLIT, **options)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_a_log_density_that_is_rounded_is_refused(dtype):
    flow = flows.Flow(lambda variables, key, x: jnp.sum(x, axis=(1, 2, 3)).astype(dtype), {})
    with pytest.raises(InputError, match=rf"{jnp.dtype(dtype)} \[2\]; expected .* float32 \[B\]"):
        ecood.score.fit(flow, encoders.pixels(), SPLIT, noise_strength=0.1)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_embeddings_that_fail_are_counted(broken):
    other = SPLIT.held_out[0, 0, 0, 0]
    assert other not in SPLIT.train[:, 0, 0, 0]

    def embed(images):
        flat = images.reshape(images.shape[0], -1).astype(jnp.float32)
        return jnp.where(images[:, :1, 0, 0] == other, broken, flat)

    mine = encoders.encoder(embed, name="mine")
    with pytest.raises(
        InputError, match="the encoder mine gave embeddings that are .* 1 of 3 held"
    ):
        ecood.score.fit(density(0.0), mine, SPLIT, noise_strength=0.1)


def test_the_detector_and_its_controls_refuse_it_too():
    flow = density(np.nan)
    for make in (ecood.score.spem, ecood.score.constant_noise, ecood.score.shuffled_noise):
        detector = make(flow, encoders.pixels(), noise_strength=0.1)
        with pytest.raises(InputError, match="NaN or infinite for 2 of 3"):
            detector.fit(jax.random.key(0), SPLIT)


@pytest.mark.parametrize("form", [RECOMMENDED, PAPER])
def test_a_strength_at_which_the_density_fails_is_never_chosen(form):
    rng = np.random.default_rng(0)
    n, strengths = 50, len(GRID)
    held_out = Along(
        GRID,
        np.float32(rng.normal(0.9, 0.01, n)),
        np.float32(rng.normal(3, 0.1, n)),
        np.float32(rng.normal(4, 0.1, (strengths, n))),
        np.zeros(n, np.float32),
    )
    held_out.perturbed[5, 0] = np.finfo(np.float32).max
    stand_in = held_out._replace(perturbed=held_out.perturbed.copy())
    stand_in.perturbed[5] = 7  # would separate best
    stand_in.perturbed[2] += 0.5
    check_measured(held_out, "mine")
    assert choose_strength(form, held_out, stand_in)[0] == GRID[2]
