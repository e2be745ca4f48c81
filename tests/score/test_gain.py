import jax
import numpy as np
import pytest

import ecood.score
from ecood.batches import map_images
from ecood.score import combined, reference
from ecood.score.spem import _separation
from tests import small


def _statistics(rng, n):
    bits = rng.normal(4, 0.7, n)
    return bits, bits + rng.gamma(2, 0.2, n), rng.beta(20, 3, n)


def test_the_score_is_the_larger_of_two_alarms_plus_a_third():
    rng = np.random.default_rng(0)
    held_out, test = _statistics(rng, 500), _statistics(rng, 40)
    score = combined(*test, reference(*held_out))

    def z(values, of):
        low, middle, high = np.quantile(of, [0.25, 0.5, 0.75])
        return (values - middle) / (high - low)

    bits, gain = z(test[0], held_out[0]), z(test[1] - test[0], held_out[1] - held_out[0])
    expected = np.maximum(bits, gain) + z(-test[2], -held_out[2])
    np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-4)


def test_rich_images_smooth_images_and_strange_images_all_score_high():
    """One statistic moved at a time, by ten of its interquartile ranges, in the bad direction."""
    usual = reference(*_statistics(np.random.default_rng(1), 500))
    bits, gain, similarity = usual.centre * np.array([1, 1, -1])
    low = combined([bits], [bits + gain], [similarity], usual)[0]
    for which, sign in ((0, 1), (1, 1), (2, -1)):
        moved = np.array([bits, gain, similarity])
        moved[which] += sign * 10 * usual.scale[which]
        high = combined([moved[0]], [moved[0] + moved[1]], [moved[2]], usual)[0]
        assert high > low + 9


def test_a_few_exploding_images_do_not_move_the_reference():
    bits, perturbed, similarity = _statistics(np.random.default_rng(2), 1000)
    exploded = perturbed.copy()
    exploded[:3] = np.finfo(np.float32).max
    one, other = (reference(bits, p, similarity) for p in (perturbed, exploded))
    np.testing.assert_allclose(one.scale, other.scale, rtol=0.02)
    np.testing.assert_allclose(one.centre, other.centre, rtol=0.02)


def test_without_noise_the_gain_has_no_say():
    rng = np.random.default_rng(3)
    bits, _, similarity = _statistics(rng, 300)
    usual = reference(bits, bits, similarity)
    assert usual.scale[1] == 0
    z = (bits - usual.centre[0]) / usual.scale[0]
    expected = np.maximum(z, 0) + (-similarity - usual.centre[2]) / usual.scale[2]
    np.testing.assert_allclose(combined(bits, bits, similarity, usual), expected, atol=1e-4)


@pytest.fixture(scope="module")
def both_forms():
    flow, encoder, key = small.gaussian(), small.encoder(), jax.random.key(0)
    images = np.concatenate([small.images(20, seed=9), 255 - small.images(20, seed=10)])
    path = ecood.score.detection_path(flow, encoder)
    forms = (ecood.score.spem, ecood.score.spem_paper)
    states = [form(flow, encoder, noise_strength=0.2).fit(key, small.images(60)) for form in forms]
    return states, [map_images(path, state, key, images=images) for state in states]


def test_the_papers_form_is_the_perturbed_images_bits(both_forms):
    (state, paper_state), (ours, papers) = both_forms
    assert paper_state.usual is None and papers.bits is None
    np.testing.assert_array_equal(papers.score, papers.perturbed_bits)
    np.testing.assert_allclose(ours.perturbed_bits, papers.perturbed_bits, rtol=1e-5)
    expected = combined(ours.bits, ours.perturbed_bits, ours.similarity, state.usual)
    np.testing.assert_allclose(ours.score, expected, rtol=1e-4, atol=1e-4)


def test_the_score_stays_finite_where_bits_explode():
    usual = reference(*_statistics(np.random.default_rng(4), 200))
    largest = np.finfo(np.float32).max
    bits = np.array([4, 4, largest, -largest], np.float32)
    perturbed = np.array([5, largest, largest, largest], np.float32)
    scores = np.asarray(combined(bits, perturbed, np.full(4, 0.9, np.float32), usual))
    small.assert_finite(scores)
    assert scores[0] < 1e3 and (scores[1:] > 1e30).all()


def test_a_noise_strength_at_which_id_images_explode_is_not_chosen():
    """Without the rule, the largest strengths win here: they turn the gain into a constant."""
    usual = reference(*_statistics(np.random.default_rng(5), 200))
    scores = [np.zeros(10, np.float32), np.ones(10, np.float32)]
    assert _separation(usual, scores) == 1.0
    exploded = usual._replace(centre=usual.centre.at[1].set(1e30))
    assert _separation(exploded, scores) == 0.0
    assert _separation(None, scores) == 1.0
