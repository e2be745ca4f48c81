"""The noise strength: chosen by held-out images and their turned copies, and by nothing else."""

import jax
import numpy as np
import pytest

import ecood.score
from ecood import metrics
from ecood.detector import scores
from ecood.score import GRID, Along, choose_strength, references
from ecood.score.forms import PAPER, RECOMMENDED
from ecood.stand_ins import turned
from tests import small

KEY = jax.random.key(0)


def test_a_turn_keeps_the_pixels_and_changes_the_picture():
    images = small.images(4)
    found = turned(images)
    assert found.shape == images.shape and found.flags.c_contiguous
    assert np.array_equal(np.sort(found.ravel()), np.sort(images.ravel()))
    assert not np.array_equal(found, images)
    for _ in range(3):
        found = turned(found)
    np.testing.assert_array_equal(found, images)
    wide = small.images(4, shape=(8, 16, 3))
    assert turned(wide).shape == wide.shape
    np.testing.assert_array_equal(turned(turned(wide)), wide)


def along(levels, n=200, seed=0):
    """Images of whose perturbed bits the mean at each strength is given."""
    rng = np.random.default_rng(seed)
    bits, similarity = rng.normal(3, 0.1, n), rng.normal(0.9, 0.01, n)
    perturbed = np.stack([rng.normal(level, 0.1, n) for level in levels])
    return Along(GRID, *map(np.float32, (similarity, bits, perturbed, np.zeros(n))))


FLAT = np.full(len(GRID), 4.0)


@pytest.mark.parametrize("form", [RECOMMENDED, PAPER])
@pytest.mark.parametrize("best", [0, 3, 9])
def test_the_strength_that_separates_best_is_chosen(form, best):
    lifted = FLAT + 0.05
    lifted[best] += 0.3
    held_out, stand_in = along(FLAT), along(lifted, seed=1)
    strength, reference = choose_strength(form, held_out, stand_in)
    assert strength == GRID[best]
    expected = references(held_out)[best]
    np.testing.assert_array_equal(reference.centre, expected.centre)
    np.testing.assert_array_equal(reference.spread, expected.spread)


def test_of_equals_the_smallest_strength_is_chosen():
    same = along(FLAT)
    same = same._replace(perturbed=np.repeat(same.perturbed[:1], len(GRID), axis=0))
    other = same._replace(perturbed=same.perturbed + np.float32(0.2))
    assert choose_strength(PAPER, same, other)[0] == GRID[0]


def test_a_strength_at_which_id_images_explode_is_not_chosen():
    """Without the rule, the largest strength wins here."""
    exploding = FLAT.copy()
    exploding[-1] = 1e30
    lifted = FLAT + 0.05
    lifted[-1], lifted[4] = 2e30, 4.1
    held_out, stand_in = along(exploding), along(lifted, seed=1)
    assert choose_strength(RECOMMENDED, held_out, stand_in)[0] == GRID[4]
    assert choose_strength(PAPER, held_out, stand_in)[0] == GRID[-1]
    assert RECOMMENDED.may_choose(held_out.perturbed[0])
    assert not RECOMMENDED.may_choose(held_out.perturbed[-1])


def test_it_is_the_median_perturbed_image_that_counts():
    """Not the median image plus the median gain, 3 bits/dim here."""
    assert RECOMMENDED.may_choose(np.float32([3, 7, 9]))
    assert not RECOMMENDED.may_choose(np.float32([3, 9, 9]))


@pytest.mark.parametrize("make", [ecood.score.spem, ecood.score.spem_paper])
def test_fitting_chooses_by_held_out_and_turned_images_alone(make):
    """The choice of `fit` is the best one by hand, and OOD images have no way in."""
    flow, encoder, split = small.gaussian(), small.encoder(), small.split(400)
    state = make(flow, encoder).fit(KEY, split)
    values = []
    for strength in GRID:
        detector = make(flow, encoder, noise_strength=strength)
        now = detector.fit(KEY, split)
        pair = (scores(detector, now, KEY, x) for x in (split.held_out, turned(split.held_out)))
        exploded = now.reference.centre[0] + now.reference.centre[1] > 8
        values.append(0.0 if exploded and make is ecood.score.spem else metrics.auroc(*pair))
    assert max(values) > min(values)
    assert float(state.noise_strength) == pytest.approx(GRID[int(np.argmax(values))])


def test_all_strengths_are_one_program_and_the_embeddings_are_made_once():
    flow, encoder, split = small.gaussian(), small.encoder(), small.split(60)
    detector = ecood.score.spem(flow, encoder, noise_strength=0.1)
    state, seen = detector.fit(KEY, split), []
    found = ecood.score.measure(state, KEY, split.held_out, GRID[:3], progress=seen.append)
    assert sum(seen) == 5 * len(split.held_out)
    with small.programs() as made:
        again = ecood.score.measure(state, KEY, split.held_out, (0.123, 4.56))
    assert made == []
    assert found.perturbed.shape == (3, 3) and again.perturbed.shape == (2, 3)
    np.testing.assert_array_equal(found.bits, again.bits)
    own = state.replace(noise_strength=np.float32(GRID[1]))
    detection = jax.jit(ecood.score.detect)(own, KEY, split.held_out)
    np.testing.assert_allclose(found.perturbed[1], detection.perturbed_bits, rtol=1e-5)
    np.testing.assert_allclose(found.bits, detection.bits, rtol=1e-5)
    np.testing.assert_allclose(found.similarity, detection.similarity, rtol=1e-5)
