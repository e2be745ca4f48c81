import jax
import numpy as np
import pytest

import ecood.score
from ecood import metrics
from ecood.batches import map_images
from ecood.errors import InputError
from ecood.images import hold_out
from ecood.score import choose_strength
from ecood.score.strength import GRID
from tests import small


def test_a_turn_keeps_the_pixels_and_changes_the_picture():
    images = small.images(4)
    turned = ecood.score.turned(images)
    assert turned.shape == images.shape
    assert np.array_equal(np.sort(turned.ravel()), np.sort(images.ravel()))
    assert not np.array_equal(turned, images)
    wide = small.images(4, shape=(8, 16, 3))
    assert ecood.score.turned(wide).shape == wide.shape


def test_the_strength_with_the_best_separation_is_chosen_and_the_smallest_of_equals():
    assert choose_strength(lambda strength: -abs(np.log(strength / GRID[3]))) == GRID[3]
    assert choose_strength(lambda strength: 0.5) == GRID[0]


def test_fitting_chooses_by_held_out_and_turned_images_alone():
    """The choice of `fit` is the best one by hand, and OOD images have no way in."""
    detector = ecood.score.spem_paper(small.gaussian(), small.encoder())
    id_images, key = small.images(400), jax.random.key(0)
    state = detector.fit(key, id_images)
    held_out = hold_out(id_images)[1]
    values = []
    for strength in GRID:
        now = state._replace(noise_strength=np.float32(strength))
        values.append(
            metrics.auroc(
                map_images(detector.score, now, key, images=held_out),
                map_images(detector.score, now, key, images=ecood.score.turned(held_out)),
            )
        )
    assert max(values) > min(values)
    assert float(state.noise_strength) == pytest.approx(GRID[int(np.argmax(values))])


@pytest.mark.parametrize("strength", [-1, float("nan"), float("inf"), "much", None])
def test_a_senseless_strength_is_refused(strength):
    with pytest.raises(InputError, match="expected a finite number >= 0, or 'auto'"):
        ecood.score.spem(small.gaussian(), small.encoder(), noise_strength=strength)


@pytest.mark.parametrize(("draws", "antithetic"), [(0, False), (3, True)])
def test_senseless_draws_are_refused(draws, antithetic):
    with pytest.raises(InputError, match=f"draws is {draws}"):
        ecood.score.spem(small.gaussian(), small.encoder(), draws=draws, antithetic=antithetic)
