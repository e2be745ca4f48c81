"""SPEM: how the statistics make the score, and what decides them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ecood.score
from ecood import baselines, flows, statistics
from ecood.batches import map_images
from ecood.code_length import code_length
from ecood.detector import detections, scores
from ecood.errors import InputError
from ecood.score import FORMS, score_given
from ecood.score.forms import OF_0_1, PAPER, RECOMMENDED
from tests import small

KEY = jax.random.key(0)
LARGEST = np.finfo(np.float32).max
UNUSUAL = np.concatenate([small.images(20, seed=9), 255 - small.images(20, seed=10)])


STATE = small.scorer(small.gaussian(), small.encoder()).state


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.float32(UNUSUAL / 255), r"images is float32 \[40, 8, 8, 3\]; expected uint8 \[B, H, W"),
        (np.int32(UNUSUAL), "images is int32"),
        (UNUSUAL > 100, "images is bool"),
        (UNUSUAL[0], r"images is uint8 \[8, 8, 3\]"),
        (UNUSUAL[:0], r"images is uint8 \[0, 8, 8, 3\]; .* with at least one image"),
        ("photos", r"images is str \[\]"),
    ],
)
def test_the_whole_path_refuses_other_images_when_it_is_traced(images, words):
    with pytest.raises(InputError, match=words):
        ecood.score.detect(STATE, KEY, images)
    if not isinstance(images, str):
        with pytest.raises(InputError, match=words):
            jax.eval_shape(ecood.score.detect, STATE, KEY, images)


def test_strict_promotion_is_no_obstacle_to_a_shipped_scorer():
    scorer = ecood.score.load("fashion_mnist")
    images = jax.ShapeDtypeStruct((2, *scorer.image_shape), np.uint8)
    with jax.numpy_dtype_promotion("strict"):
        found = jax.eval_shape(ecood.score.detect, scorer.state, KEY, images)
    assert {(part.shape, part.dtype) for part in found} == {((2,), np.dtype("f4"))}


def draw_statistics(rng, n):
    """Bits, bits of the perturbed image, similarity, code length, as of ID images."""
    bits = rng.normal(4, 0.7, n)
    return bits, bits + rng.gamma(2, 0.2, n), rng.beta(20, 3, n), bits - rng.normal(0.2, 0.3, n)


def reference(bits, perturbed, similarity, length):
    return statistics.reference([bits, perturbed - bits, -similarity, bits - length])


def recommended(bits, perturbed, similarity, length, reference):
    return np.asarray(score_given(RECOMMENDED, reference, bits, perturbed, similarity, length))


def test_the_score_is_the_larger_of_two_alarms_plus_two_more_none_below_minus_one():
    rng = np.random.default_rng(0)
    held_out, test = draw_statistics(rng, 500), draw_statistics(rng, 40)
    score = recommended(*test, reference(*held_out))

    def z(values, of):
        low, middle, high = np.quantile(of, [0.25, 0.5, 0.75])
        return (values - middle) / (high - low)

    bits, gain = z(test[0], held_out[0]), z(test[1] - test[0], held_out[1] - held_out[0])
    excess = z(test[0] - test[3], held_out[0] - held_out[3])
    terms = np.stack([np.maximum(bits, gain), z(-test[2], -held_out[2]), excess])
    expected = np.maximum(terms, -1).sum(axis=0)
    np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-4)


def test_rich_images_smooth_images_and_strange_images_all_score_high():
    """One statistic moved at a time, by ten of its interquartile ranges, in the bad direction."""
    held_out = reference(*draw_statistics(np.random.default_rng(1), 500))
    bits, gain, similarity, excess = held_out.centre * np.array([1, 1, -1, 1])

    def score(bits, gain, similarity, excess):
        return recommended([bits], [bits + gain], [similarity], [bits - excess], held_out)[0]

    usual = np.array([bits, gain, similarity, excess])
    for which, sign in ((0, 1), (1, 1), (2, -1), (3, 1)):
        moved = usual.copy()
        moved[which] += sign * 10 * held_out.spread[which]
        assert score(*moved) > score(*usual) + 9


def test_no_statistic_outweighs_what_another_one_found():
    """Whatever the other two terms are, the score is at least each term less 2."""
    rng = np.random.default_rng(6)
    scale = reference(*draw_statistics(rng, 300))
    bits, perturbed, similarity, length = draw_statistics(rng, 2000)
    bits, length = bits + rng.normal(size=2000) * 9, length + rng.normal(size=2000) * 9
    found = recommended(bits, perturbed, similarity, length, scale)
    rows = [bits, perturbed - bits, -similarity, bits - length]
    z = statistics.standardise([np.float32(row) for row in rows], scale)
    for term in (np.maximum(z[0], z[1]), z[2], z[3]):
        assert (found >= term - 2 - 1e-4).all()
    assert (found < np.maximum(z[0], z[1]) + z[2] + z[3] + 1e-4).mean() < 0.9  # the floor was met


def test_what_is_less_similar_where_id_images_are_all_alike_is_most_odd():
    """As images of one colour are to an encoder that scales them to norm 1."""
    bits, perturbed, similarity, length = draw_statistics(np.random.default_rng(5), 300)
    similarity[:] = 1.0
    held_out = reference(bits, perturbed, similarity, length)
    usual = recommended(bits, perturbed, similarity, length, held_out)
    found = recommended(bits, perturbed, similarity - 0.1, length, held_out)
    assert found.min() > usual.max()


def test_without_noise_the_gain_has_no_say():
    bits, _, similarity, length = draw_statistics(np.random.default_rng(3), 300)
    held_out = reference(bits, bits, similarity, length)
    assert held_out.spread[1] == np.float32(statistics.RESOLUTION)
    z = (np.stack([bits, -similarity, bits - length]) - held_out.centre[[0, 2, 3], None]) / (
        held_out.spread[[0, 2, 3], None]
    )
    found = recommended(bits, bits, similarity, length, held_out)
    terms = np.stack([np.maximum(z[0], 0), z[1], z[2]])
    np.testing.assert_allclose(found, np.maximum(terms, -1).sum(axis=0), atol=1e-4)


def test_the_score_stays_finite_where_bits_explode_and_no_number_is_most_odd():
    held_out = reference(*draw_statistics(np.random.default_rng(4), 200))
    bits = np.array([4, 4, LARGEST], np.float32)
    perturbed = np.array([5, LARGEST, LARGEST], np.float32)
    found = recommended(bits, perturbed, np.full(3, 0.9), np.full(3, 4.0), held_out)
    small.assert_finite(found)
    assert found[0] < 1e3 and (found[1:] > 1e30).all()
    nowhere = recommended([4.0], [5.0], [np.nan], [4.0], held_out)
    np.testing.assert_array_equal(nowhere, LARGEST)


def test_the_form_of_0_1_has_three_statistics():
    """A reference of three is what ecood 0.1 saved; its scores do not look at the code length."""
    held_out, test = (draw_statistics(np.random.default_rng(seed), 60) for seed in (5, 6))
    scale = statistics.reference([held_out[0], held_out[1] - held_out[0], -held_out[2]])
    found = np.asarray(score_given(OF_0_1, scale, *test))
    z = statistics.standardise([test[0], test[1] - test[0], -test[2]], scale)
    np.testing.assert_allclose(found, np.maximum(z[0], z[1]) + z[2], atol=1e-4)
    longer = np.asarray(score_given(OF_0_1, scale, *test[:3], test[3] + 1))
    np.testing.assert_array_equal(found, longer)


@pytest.fixture(scope="module")
def both_forms():
    flow, encoder = small.gaussian(), small.encoder()
    found = []
    for make in (ecood.score.spem, ecood.score.spem_paper):
        detector = make(flow, encoder, noise_strength=0.2)
        state = detector.fit(KEY, small.split(60))
        found.append((state, detections(detector, state, KEY, UNUSUAL)))
    return found


def test_the_papers_form_is_the_perturbed_images_bits(both_forms):
    (state, ours), (paper_state, papers) = both_forms
    assert (state.form, paper_state.form) == (RECOMMENDED, PAPER)
    assert FORMS[RECOMMENDED.name] == RECOMMENDED and FORMS["paper"] == PAPER
    assert FORMS["recommended"] == OF_0_1  # as the files of ecood 0.1 name it
    np.testing.assert_array_equal(papers.score, papers.perturbed_bits)
    for field in ("similarity", "noise_scale", "perturbed_bits", "bits", "code_length"):
        np.testing.assert_allclose(getattr(ours, field), getattr(papers, field), rtol=1e-5)
    known = ours.bits, ours.perturbed_bits, ours.similarity, ours.code_length
    expected = recommended(*known, state.reference)
    np.testing.assert_allclose(ours.score, expected, rtol=1e-4, atol=1e-4)


def test_the_papers_score_takes_one_pass_of_the_flow_and_the_recommended_one_two():
    flow = flows.Flow(
        lambda matrix, key, x: -jnp.sum((x.reshape(len(x), -1) @ matrix) ** 2, axis=1),
        jnp.float32(np.random.default_rng(0).normal(size=(192, 500))),
    )
    images = small.images(8)

    def cost(function, state):
        compiled = jax.jit(function).lower(state, KEY, images).compile()
        return compiled.cost_analysis()["flops"]

    one_pass = cost(baselines.likelihood(flow).score, flow)
    coded = jax.jit(code_length).lower(images).compile().cost_analysis()["flops"]
    for make, spared in ((ecood.score.spem_paper, 1 + coded / one_pass), (ecood.score.spem, 0)):
        detector = make(flow, small.encoder(), noise_strength=0.2)
        state = detector.fit(KEY, small.split(60))
        more = cost(detector.detect, state) - cost(detector.score, state)
        assert more / one_pass == pytest.approx(spared, abs=0.1)


def test_the_ends_of_the_curve_are_likelihood_and_similarity():
    # A density of which the far end is known: the noise outgrows the image, and |z|^2 its mean.
    flow = flows.Flow(lambda v, k, x: -jnp.sum(x**2, axis=(1, 2, 3)), {})
    detector = ecood.score.spem_paper(flow, small.encoder(), noise_strength=0.0, draws=64)
    state = detector.fit(KEY, small.split(60))
    one_draw = state.replace(draws=statistics.Draws())
    zero = scores(detector, one_draw, KEY, UNUSUAL)
    plain = scores(baselines.likelihood(flow), flow, KEY, UNUSUAL)
    np.testing.assert_allclose(zero, plain, rtol=1e-6)

    far = detections(detector, state.replace(noise_strength=jnp.float32(1e4)), KEY, UNUSUAL)
    assert scipy.stats.spearmanr(far.score, -far.similarity).statistic > 0.95
    near = detections(detector, state, KEY, UNUSUAL)
    assert abs(scipy.stats.spearmanr(near.score, -near.similarity).statistic) < 0.95


def test_a_control_hands_out_other_images_noise_scales():
    flow, encoder, split = small.gaussian(), small.encoder(), small.split(400)
    state = ecood.score.spem_paper(flow, encoder, noise_strength=0.5).fit(KEY, split)
    s = map_images(statistics.similarity, encoder, state.bank, images=split.held_out)
    scales = 0.5 * (1 - s)
    constant = ecood.score.constant_noise(flow, encoder, noise_strength=0.5)
    found = detections(constant, constant.fit(KEY, split), KEY, UNUSUAL)
    np.testing.assert_allclose(found.noise_scale, np.mean(scales), rtol=1e-4)
    shuffled = ecood.score.shuffled_noise(flow, encoder, noise_strength=0.5)
    known = shuffled.fit(KEY, split)
    found = detections(shuffled, known, KEY, UNUSUAL)
    nearest = np.abs(found.noise_scale[:, None] - scales[None]).min(axis=1)
    np.testing.assert_allclose(nearest, 0, atol=1e-6)
    assert len(set(found.noise_scale)) > 5
    again = detections(shuffled, known, KEY, UNUSUAL[::-1])
    np.testing.assert_array_equal(again.noise_scale[::-1], found.noise_scale)
    by_contrast = ecood.score.contrast_noise(flow, encoder, noise_strength=0.5)
    known = by_contrast.fit(KEY, split)
    at_home = detections(by_contrast, known, KEY, split.held_out).noise_scale
    np.testing.assert_allclose(np.mean(at_home), np.mean(scales), rtol=1e-4)
    found = detections(by_contrast, known, KEY, UNUSUAL).noise_scale
    contrast = UNUSUAL.std(axis=(1, 2, 3)) / split.held_out.std(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(found, np.mean(scales) * contrast, rtol=1e-4)


def test_similarity_to_several_neighbours_decides_noise_and_score():
    flow, encoder, split = small.gaussian(), small.encoder(), small.split(400)
    detector = ecood.score.spem_of_form(
        ecood.score.RECOMMENDED, flow, encoder, noise_strength=0.5, neighbours=4
    )
    found = detections(detector, state := detector.fit(KEY, split), KEY, UNUSUAL)
    alone = ecood.score.similarity(encoder, neighbours=4)
    near = detections(alone, alone.fit(KEY, split), KEY, UNUSUAL)
    np.testing.assert_allclose(found.similarity, -near.score, rtol=1e-6)
    np.testing.assert_allclose(found.noise_scale, 0.5 * (1 + near.score), rtol=1e-5)
    held_out = ecood.score.similarities(state, split.held_out)
    np.testing.assert_allclose(state.reference.centre[2], -np.median(held_out), rtol=1e-6)


def test_a_control_measures_its_reference_with_its_own_noise():
    flow, encoder, split = small.gaussian(), small.encoder(), small.split(400)
    own = ecood.score.spem(flow, encoder, noise_strength=0.5).fit(KEY, split)
    control = ecood.score.constant_noise(flow, encoder, noise_strength=0.5)
    state = control.fit(KEY, split)
    found = detections(control, state, KEY, split.held_out)
    gain = np.float64(found.perturbed_bits) - found.bits
    np.testing.assert_allclose(state.reference.centre[1], np.median(gain), rtol=1e-4)
    assert state.reference.spread[1] < own.reference.spread[1]


def test_an_exploding_flow_still_gives_finite_scores():
    flow = flows.Flow(lambda v, k, x: -jnp.exp(40 * jnp.abs(x).max((1, 2, 3))), {})
    detector = ecood.score.spem(flow, small.encoder(), noise_strength=0.1)
    state = detector.fit(KEY, small.split(60)).replace(noise_strength=jnp.float32(5))
    small.assert_finite(scores(detector, state, KEY, 255 - small.images(9, seed=8)))


def test_more_draws_and_antithetic_pairs_lower_the_variance():
    images, state, spread = small.images(10, seed=10), None, {}
    for name, draws in {"one": (1, False), "four": (4, False), "pairs": (4, True)}.items():
        detector = ecood.score.spem_paper(small.gaussian(), small.encoder(), noise_strength=0.3)
        state = state or detector.fit(jax.random.key(0), small.split(60))
        state = state.replace(draws=statistics.Draws(*draws))
        runs = [scores(detector, state, jax.random.key(k), images) for k in range(24)]
        spread[name] = float(np.mean(np.var(runs, axis=0)))
    assert spread["four"] < 0.6 * spread["one"]
    assert spread["pairs"] < 0.6 * spread["one"]


def test_accelerators_get_xlas_own_convolution():
    traced = jax.jit(baselines.likelihood(small.flow()).score).trace(
        small.flow(), KEY, small.images(4)
    )
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("cuda", "tpu"):
        assert "stablehlo.convolution" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("strength", [-1, float("nan"), float("inf"), "much", None])
def test_a_senseless_strength_is_refused(strength):
    with pytest.raises(InputError, match="expected a finite number >= 0, or 'auto'"):
        ecood.score.spem(small.gaussian(), small.encoder(), noise_strength=strength)


@pytest.mark.parametrize(("draws", "antithetic"), [(0, False), (3, True)])
def test_senseless_draws_are_refused(draws, antithetic):
    with pytest.raises(InputError, match=f"draws is {draws}"):
        ecood.score.spem(small.gaussian(), small.encoder(), draws=draws, antithetic=antithetic)
