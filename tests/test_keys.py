"""No global setting of JAX changes a score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import devices, encoders, flows, keys, splits
from ecood.baselines.background import mutate
from ecood.errors import InputError
from tests import small

SETTINGS = {
    "rbg": lambda: jax.default_prng_impl("rbg"),
    "unsafe_rbg": lambda: jax.default_prng_impl("unsafe_rbg"),
    "partitionable": lambda: jax.threefry_partitionable(False),
}


def residual():
    module = flows.ResidualFlow((8, 8, 3), depth=1, levels=1, width=4)
    variables = jax.jit(module.init)(
        {"params": keys.make(0), "probe": keys.make(1)}, small.images(2).astype(np.float32) / 256
    )
    return flows.bind(module, variables)


@pytest.mark.parametrize("flow", [small.flow, pytest.param(residual, marks=pytest.mark.slow)])
def test_scores_and_their_independence_of_the_batch(flow):
    flow, images = flow(), small.images(9, seed=1)
    fitted = ecood.score.fit(flow, encoders.pixels(), small.images(60), noise_strength=0.1)
    expected = fitted(images)
    for setting in SETTINGS.values():
        with setting():
            again = ecood.score.fit(flow, encoders.pixels(), small.images(60), noise_strength=0.1)
            np.testing.assert_array_equal(again(images), expected)
            np.testing.assert_array_equal(again(images[::-1][:4]), expected[::-1][:4])
            found = jax.jit(fitted.detector.detect)(fitted.state, jax.random.key(0), images)
        np.testing.assert_allclose(found.score, expected, rtol=1e-4, atol=1e-4)


def drawn():
    """What is drawn by a key that `jax.random.key` made."""
    key, flow = jax.random.key(3), small.flow()
    return {
        "random features": encoders.random_features(key, 3).variables["params"]["kernel"],
        "an offline encoder": encoders.offline(3)["random_features"].variables["params"]["kernel"],
        "samples": flow.sample(key, 2),
        "mutations": mutate(key, small.images(2), 0.5),
    }


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_key_draws(setting):
    expected = drawn()
    with SETTINGS[setting]():
        for name, found in drawn().items():
            np.testing.assert_array_equal(found, expected[name], err_msg=name)


@pytest.mark.slow
def test_the_controls_noise_too():
    split, images = small.split(60), small.images(9, seed=1)
    detector = ecood.score.shuffled_noise(small.blank_flow(), encoders.pixels(), noise_strength=0.1)
    state = detector.fit(keys.make(0), split)
    run = jax.jit(detector.score)
    expected = run(state, keys.make(0), images)
    for setting in SETTINGS.values():
        with setting():
            np.testing.assert_array_equal(run(state, keys.make(0), images), expected)
            np.testing.assert_array_equal(run(state, jax.random.key(0), images), expected)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "1", None, True])
def test_a_seed_that_x64_would_make_another_key_of_is_refused(seed):
    for use in (keys.make, lambda s: splits.draw(small.images(60), seed=s)):
        with pytest.raises(InputError, match=r"expected a whole number from 0 to 2\*\*32 - 1"):
            use(seed)
    assert keys.check_seed(np.int64(7)) == 7


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no libtpu\nmore")])
def test_a_platform_that_is_not_there_is_one_sentence(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(InputError, match=r"has no device on the platform .*(installed|libtpu)\);"):
        devices.check()
    with pytest.raises(InputError, match="has no device on the platform"):
        ecood.score.load("mnist")


def test_signs_are_rademachers_whatever_x64_is():
    key = jax.random.key(3)
    without = jax.random.rademacher(key, (64,), jnp.float32)
    with jax.enable_x64(True):
        assert keys.signs(key, (64,), jnp.float32).dtype == jnp.float32
        np.testing.assert_array_equal(keys.signs(key, (64,), jnp.float32), without)
