"""The detection path is one program: one trace, no host callback, three platforms, same bits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ecood.score
from ecood import flows
from ecood.batches import map_images
from ecood.score.spem import guard
from tests import small

NAMES = (
    "spem",
    "spem, antithetic",
    "likelihood",
    "similarity",
    "constant noise",
    "shuffled noise",
)


STRENGTH = 0.5  # at which the gain of ID images varies by far more than its rounding


def make(name):
    """The detector; SPEM itself around a Glow, the others around a density quick to compile."""
    flow, encoder = small.flow() if name == "spem" else small.gaussian(), small.encoder()
    return {
        "spem": lambda: ecood.score.spem(flow, encoder, noise_strength=STRENGTH),
        "spem, antithetic": lambda: ecood.score.spem(
            flow, encoder, noise_strength=STRENGTH, draws=4, antithetic=True
        ),
        "likelihood": lambda: ecood.score.likelihood(flow),
        "similarity": lambda: ecood.score.similarity(encoder),
        "constant noise": lambda: ecood.score.constant_noise(flow, encoder, STRENGTH),
        "shuffled noise": lambda: ecood.score.shuffled_noise(flow, encoder, STRENGTH),
    }[name]()


class Fitted(NamedTuple):
    """A fitted detector, and the shapes for which its score was traced so far."""

    name: str
    state: Any
    score: Callable[[Any, jax.Array, jax.Array], jax.Array]
    traced: list[tuple[int, ...]]

    def __call__(self, images, key=1, **options):
        return map_images(self.score, self.state, jax.random.key(key), images=images, **options)


@pytest.fixture(scope="module", params=NAMES)
def fitted(request):
    detector, traced = make(request.param), []

    def score(state, key, images):
        traced.append(images.shape)
        return detector.score(state, key, images)

    state = detector.fit(jax.random.key(0), small.images(400))
    return Fitted(request.param, state, score, traced)


def test_scores_keep_the_protocol(fitted):
    scores = fitted(small.images(9, seed=5))
    assert scores.shape == (9,) and scores.dtype == np.float32
    small.assert_finite(scores)
    assert all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(fitted.state))


def test_one_trace_for_any_number_of_images(fitted):
    for count in (64, 1, 7, 100):
        assert fitted(small.images(count, seed=2), key=count).shape == (count,)
    assert fitted.traced.count((64, *small.SHAPE)) == 1


def test_same_key_same_bits_and_another_key_other_noise(fitted):
    images = small.images(20, seed=3)
    first, again, other = (fitted(images, key) for key in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    if fitted.name == "similarity":
        np.testing.assert_array_equal(first, other)
    else:
        assert np.abs(first - other).max() > 0


def test_one_at_a_time_equals_together_in_any_order(fitted):
    images = small.images(12, seed=4)
    together = fitted(images)
    alone = fitted(images, batch_size=1)
    np.testing.assert_allclose(together, alone, rtol=2e-5, atol=1e-5)
    backwards = fitted(images[::-1])
    np.testing.assert_allclose(together, backwards[::-1], rtol=2e-5, atol=1e-5)


def test_the_compiled_module_never_goes_back_to_the_host(fitted):
    lowered = jax.jit(fitted.score).lower(fitted.state, jax.random.key(0), small.images(64))
    for text in (lowered.as_text(), lowered.compile().as_text()):
        assert "callback" not in text
        assert "outfeed" not in text and "infeed" not in text


def test_one_artifact_for_cpu_cuda_and_tpu(fitted):
    platforms = ("cpu", "cuda", "tpu")
    images = jax.ShapeDtypeStruct((jax.export.symbolic_shape("b")[0], *small.SHAPE), jnp.uint8)

    def score(images):
        return fitted.score(fitted.state, jax.random.key(0), images)

    exported = jax.export.export(jax.jit(score), platforms=platforms)(images)
    assert exported.platforms == platforms
    again = jax.export.deserialize(exported.serialize())
    batch = small.images(5, seed=6)
    np.testing.assert_allclose(again.call(batch), fitted(batch, key=0), rtol=2e-5, atol=1e-5)


def test_accelerators_get_xlas_own_convolution():
    detector = ecood.score.likelihood(small.flow())
    traced = jax.jit(detector.score).trace(
        small.flow().variables, jax.random.key(0), small.images(4)
    )
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("cuda", "tpu"):
        assert "stablehlo.convolution" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_guard_is_finite_monotone_and_the_identity_up_to_eight_bits():
    bits = jnp.array([-jnp.inf, -3, 0, 7.99, 8, 8.01, 100, 1e15, 1e38, jnp.inf, jnp.nan])
    guarded = np.asarray(guard(bits))
    small.assert_finite(guarded)
    np.testing.assert_array_equal(guarded[1:5], np.asarray(bits)[1:5])
    assert np.all(np.diff(guarded[:9]) > 0)
    assert guarded[9] >= guarded[8] and guarded[10] >= guarded[8]
    assert guarded[7] < 50


def test_an_exploding_flow_still_gives_finite_ordered_scores():
    def log_prob(variables, key, x):
        return -jnp.exp(40 * jnp.abs(x).max((1, 2, 3)))

    detector = ecood.score.spem(flows.Flow(log_prob, {}), small.encoder(), noise_strength=5.0)
    key = jax.random.key(0)
    state = detector.fit(key, small.images(60))
    images = 255 - small.images(9, seed=8)
    small.assert_finite(map_images(detector.score, state, key, images=images))


def test_the_ends_of_the_curve_are_likelihood_and_similarity():
    # A density of which the far end is known: the noise outgrows the image, and |z|^2 its mean.
    flow = flows.Flow(lambda v, k, x: -jnp.sum(x**2, axis=(1, 2, 3)), {})
    encoder, key = small.encoder(), jax.random.key(0)
    images = np.concatenate([small.images(20, seed=9), 255 - small.images(20, seed=10)])
    state = ecood.score.spem_paper(flow, encoder, noise_strength=0.0).fit(key, small.images(60))
    zero = map_images(ecood.score.detection_path(flow, encoder), state, key, images=images)
    plain = map_images(ecood.score.likelihood(flow).score, {}, key, images=images)
    np.testing.assert_allclose(zero.score, plain, rtol=1e-6)

    path = ecood.score.detection_path(flow, encoder, draws=64)
    far = map_images(path, state._replace(noise_strength=jnp.float32(1e4)), key, images=images)
    assert scipy.stats.spearmanr(far.score, -far.similarity).statistic > 0.95
    near = map_images(path, state, key, images=images)
    assert abs(scipy.stats.spearmanr(near.score, -far.similarity).statistic) < 0.95


def test_more_draws_and_antithetic_pairs_lower_the_variance():
    flow, encoder = small.gaussian(), small.encoder()
    images, state, spread = small.images(10, seed=10), None, {}
    for name, options in {
        "one": {},
        "four": {"draws": 4},
        "pairs": {"draws": 4, "antithetic": True},
    }.items():
        detector = ecood.score.spem_paper(flow, encoder, noise_strength=0.3, **options)
        state = state or detector.fit(jax.random.key(0), small.images(60))
        runs = [
            map_images(detector.score, state, jax.random.key(k), images=images) for k in range(24)
        ]
        spread[name] = float(np.mean(np.var(runs, axis=0)))
    assert spread["four"] < 0.6 * spread["one"]
    assert spread["pairs"] < 0.6 * spread["one"]
