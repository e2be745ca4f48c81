"""Which images a scorer was not made from."""

import numpy as np
import pytest

from ecood import splits
from ecood.errors import InputError
from ecood.score import unseen
from tests import small
from tests.evaluation import tiny_sets
from tests.evaluation.tiny_sets import SPLIT, TESTS, TRAIN


@pytest.fixture(scope="module")
def scorer():
    return tiny_sets.scorer()


def test_the_parts_of_the_id_images_are_those_that_the_scorer_was_made_from(scorer):
    notes, strange = [], small.images(30, seed=9)
    models = scorer.flow, scorer.encoder
    every = np.concatenate([strange, TRAIN])
    parts = unseen.split_of(every, *models, scorer.fitted_on, notes)
    for part, expected in zip(parts, SPLIT, strict=True):
        np.testing.assert_array_equal(part, expected)
    known = small.encoder().replace(trained_on=splits.remember(strange[3:]))
    parts = unseen.split_of(every, scorer.flow, known, None, notes)
    new = splits.remember(np.concatenate([strange[:3], SPLIT.held_out]))
    assert splits.count_known(parts.held_out, new) == len(parts.held_out) == 7
    with pytest.raises(InputError, match="fitted to other images"):
        unseen.split_of(strange, *models, scorer.fitted_on, notes)
    assert not notes
    drawn = unseen.split_of(TRAIN, small.gaussian(), scorer.encoder, None, notes)
    assert len(drawn.held_out) == 6 and "is not known" in notes[0]


def test_test_images_that_made_the_scorer_are_dropped_or_refused(scorer):
    notes = []
    assert len(unseen.fresh(TESTS["svhn_cropped"], scorer, "svhn_cropped", notes)) == 20
    assert not notes
    with pytest.raises(InputError, match="made from all 20 test images of x"):
        unseen.fresh(TRAIN[:20], scorer, "x", notes)
