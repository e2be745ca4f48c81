import numpy as np
import pytest

import ecood.score
from ecood.errors import InputError
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


def test_the_strength_with_the_best_separation_is_chosen():
    held_out = small.images(200)

    def score(strength, images):
        noise = np.random.default_rng(int(images[0, 0, 0, 0])).normal(size=len(images))
        signal = 0.0 if images is held_out else 2.0
        return noise + signal / (1 + np.log(strength / GRID[3]) ** 2)

    assert choose_strength(score, held_out) == GRID[3]


def test_where_nothing_separates_the_smallest_strength_is_chosen():
    assert choose_strength(lambda _, images: np.zeros(len(images)), small.images(50)) == GRID[0]


@pytest.mark.parametrize("strength", [-1, float("nan"), float("inf"), "much", None])
def test_a_senseless_strength_is_refused(strength):
    with pytest.raises(InputError, match="expected a finite number >= 0, or 'auto'"):
        ecood.score.spem(small.flow(), small.encoder(), noise_strength=strength)


@pytest.mark.parametrize(("draws", "antithetic"), [(0, False), (3, True)])
def test_senseless_draws_are_refused(draws, antithetic):
    with pytest.raises(InputError, match=f"draws is {draws}"):
        ecood.score.spem(small.flow(), small.encoder(), draws=draws, antithetic=antithetic)
