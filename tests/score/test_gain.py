import jax
import numpy as np
import pytest

import ecood.score
from ecood.batches import map_images
from ecood.score import gain_weight
from ecood.score.gain import gained
from tests import small


def test_the_weighted_score_is_the_sum_of_two_standardised_statistics():
    rng = np.random.default_rng(0)
    bits, gain = rng.normal(4, 0.7, 4001), rng.gamma(2, 0.2, 4001)
    perturbed = bits + gain
    score = np.asarray(gained(bits, perturbed, gain_weight(bits, perturbed)), np.float64)

    def standardised(values):
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        return (values - middle) / (high - low)

    both = standardised(perturbed) + standardised(gain)
    assert np.corrcoef(score, both)[0, 1] > 1 - 1e-9


def test_a_few_exploding_images_do_not_move_the_weight():
    rng = np.random.default_rng(1)
    bits, perturbed = rng.normal(4, 0.7, 1000), rng.normal(5, 0.3, 1000)
    exploded = perturbed.copy()
    exploded[:3] = np.finfo(np.float32).max
    assert abs(gain_weight(bits, exploded) / gain_weight(bits, perturbed) - 1) < 0.05


def test_without_noise_there_is_no_gain_and_the_score_is_the_likelihood():
    bits = np.linspace(3, 5, 50)
    assert gain_weight(bits, bits) == 1.0
    flow, encoder, key = small.flow(), small.encoder(), jax.random.key(0)
    detector = ecood.score.spem(flow, encoder, noise_strength=0.0)
    state = detector.fit(key, small.images(60))
    assert state.gain_weight == 1.0
    images = small.images(20, seed=9)
    plain = map_images(ecood.score.likelihood(flow).score, flow.variables, key, images=images)
    np.testing.assert_array_equal(map_images(detector.score, state, key, images=images), plain)


@pytest.fixture(scope="module")
def both_forms():
    flow, encoder, key = small.flow(), small.encoder(), jax.random.key(0)
    images = np.concatenate([small.images(20, seed=9), 255 - small.images(20, seed=10)])
    path = ecood.score.detection_path(flow, encoder)
    forms = (ecood.score.spem, ecood.score.spem_paper)
    states = [form(flow, encoder, noise_strength=0.2).fit(key, small.images(60)) for form in forms]
    return states, [map_images(path, state, key, images=images) for state in states]


def test_the_papers_form_is_the_perturbed_images_bits(both_forms):
    (state, paper_state), (ours, papers) = both_forms
    assert paper_state.gain_weight is None and papers.bits is None
    np.testing.assert_array_equal(papers.score, papers.perturbed_bits)
    np.testing.assert_allclose(ours.perturbed_bits, papers.perturbed_bits, rtol=1e-5)
    expected = ours.bits + float(state.gain_weight) * (ours.perturbed_bits - ours.bits)
    np.testing.assert_allclose(ours.score, expected, rtol=1e-5)
    assert state.gain_weight > 1


def test_the_score_stays_finite_where_both_terms_explode():
    largest = np.finfo(np.float32).max
    bits = np.array([4, 4, largest, -largest], np.float32)
    perturbed = np.array([5, largest, largest, largest], np.float32)
    scores = np.asarray(gained(bits, perturbed, np.float32(3)))
    small.assert_finite(scores)
    assert scores[0] == 7 and scores[1] == largest and scores[2] == largest
