"""The detection path is one program: one trace, no host callback, three platforms, same bits."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ecood.score
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


def detectors():
    flow, encoder = small.flow(), small.encoder()
    return {
        "spem": ecood.score.spem(flow, encoder, noise_strength=0.1),
        "spem, antithetic": ecood.score.spem(
            flow, encoder, noise_strength=0.1, draws=4, antithetic=True
        ),
        "likelihood": ecood.score.likelihood(flow),
        "similarity": ecood.score.similarity(encoder),
        "constant noise": ecood.score.constant_noise(flow, encoder, 0.1),
        "shuffled noise": ecood.score.shuffled_noise(flow, encoder, 0.1),
    }


@pytest.fixture(scope="module", params=NAMES)
def fitted(request):
    detector = detectors()[request.param]
    return detector, detector.fit(jax.random.key(0), small.images(60))


def test_scores_keep_the_protocol(fitted):
    detector, state = fitted
    scores = detector.score(state, jax.random.key(1), small.images(9, seed=5))
    assert scores.shape == (9,) and scores.dtype == jnp.float32
    small.assert_finite(scores)
    assert all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("n", [1, 7, 64, 100])
def test_one_trace_for_any_number_of_images(fitted, n):
    detector, state = fitted
    traces = []

    def score(state, key, images):
        traces.append(images.shape)
        return detector.score(state, key, images)

    for count in (n, 1, 7):
        assert map_images(
            score, state, jax.random.key(0), images=small.images(count, seed=2)
        ).shape == (count,)
    assert len(traces) == 1


def test_same_key_same_bits_and_another_key_other_noise(fitted):
    detector, state = fitted
    images = small.images(20, seed=3)
    first, again, other = (
        map_images(detector.score, state, jax.random.key(k), images=images) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    if detector.score.__qualname__.startswith("similarity"):
        np.testing.assert_array_equal(first, other)
    else:
        assert np.abs(first - other).max() > 0


def test_one_at_a_time_equals_together_in_any_order(fitted):
    detector, state = fitted
    images, key = small.images(12, seed=4), jax.random.key(1)
    together = map_images(detector.score, state, key, images=images)
    alone = [detector.score(state, key, images[i : i + 1])[0] for i in range(12)]
    np.testing.assert_allclose(together, alone, rtol=2e-5, atol=1e-5)
    backwards = map_images(detector.score, state, key, images=images[::-1])
    np.testing.assert_allclose(together, backwards[::-1], rtol=2e-5, atol=1e-5)


def test_the_compiled_module_never_goes_back_to_the_host(fitted):
    detector, state = fitted
    lowered = jax.jit(detector.score).lower(state, jax.random.key(0), small.images(4))
    for text in (lowered.as_text(), lowered.compile().as_text()):
        assert "callback" not in text
        assert "outfeed" not in text and "infeed" not in text


def test_one_artifact_for_cpu_cuda_and_tpu(fitted):
    detector, state = fitted
    platforms = ("cpu", "cuda", "tpu")
    images = jax.ShapeDtypeStruct((jax.export.symbolic_shape("b")[0], *small.SHAPE), jnp.uint8)

    def score(images):
        return detector.score(state, jax.random.key(0), images)

    exported = jax.export.export(jax.jit(score), platforms=platforms)(images)
    assert exported.platforms == platforms
    again = jax.export.deserialize(exported.serialize())
    batch = small.images(5, seed=6)
    np.testing.assert_allclose(again.call(batch), score(jnp.asarray(batch)), rtol=2e-5, atol=1e-5)


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
    flow, encoder = small.flow(), small.encoder()
    explosive = flow._replace(log_prob=lambda v, k, x: -jnp.exp(40 * jnp.abs(x).max((1, 2, 3))))
    detector = ecood.score.spem(explosive, encoder, noise_strength=5.0)
    state = detector.fit(jax.random.key(0), small.images(60))
    scores = detector.score(state, jax.random.key(0), 255 - small.images(9, seed=8))
    small.assert_finite(scores)


def test_the_ends_of_the_curve_are_likelihood_and_similarity():
    flow, encoder, key = small.flow(), small.encoder(), jax.random.key(0)
    images = np.concatenate([small.images(20, seed=9), 255 - small.images(20, seed=10)])
    state = ecood.score.spem(flow, encoder, noise_strength=0.0).fit(key, small.images(60))
    zero = map_images(ecood.score.detection_path(flow, encoder), state, key, images=images)
    plain = map_images(ecood.score.likelihood(flow).score, flow.variables, key, images=images)
    np.testing.assert_allclose(zero.score, plain, rtol=1e-6)

    # A density of which the far end is known: the noise outgrows the image, and |z|^2 its mean.
    gaussian = flow._replace(log_prob=lambda v, k, x: -jnp.sum(x**2, axis=(1, 2, 3)))
    path = ecood.score.detection_path(gaussian, encoder, draws=64)
    far = map_images(path, state._replace(noise_strength=jnp.float32(1e4)), key, images=images)
    assert scipy.stats.spearmanr(far.score, -far.similarity).statistic > 0.95
    near = map_images(path, state, key, images=images)
    assert abs(scipy.stats.spearmanr(near.score, -far.similarity).statistic) < 0.95


def test_more_draws_and_antithetic_pairs_lower_the_variance():
    flow, encoder = small.flow(), small.encoder()
    images = small.images(10, seed=10)
    spread = {}
    for name, options in {
        "one": {},
        "four": {"draws": 4},
        "pairs": {"draws": 4, "antithetic": True},
    }.items():
        detector = ecood.score.spem(flow, encoder, noise_strength=0.3, **options)
        state = detector.fit(jax.random.key(0), small.images(60))
        runs = [
            map_images(detector.score, state, jax.random.key(k), images=images) for k in range(24)
        ]
        spread[name] = float(np.mean(np.var(runs, axis=0)))
    assert spread["four"] < 0.6 * spread["one"]
    assert spread["pairs"] < 0.6 * spread["one"]
