import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import encoders
from ecood.cache import Cache
from ecood.detector import Detector
from ecood.errors import InputError
from ecood.evaluation import engine, sets
from ecood.evaluation.roster import Guests
from ecood.statistics import Draws
from tests import small
from tests.evaluation import tiny_sets


@pytest.fixture(scope="module")
def scorer():
    return tiny_sets.scorer()


class Scores(NamedTuple):
    score: jax.Array


def test_noise_is_chosen_for_the_detectors_that_run_whatever_the_scorer_draws(scorer, tmp_path):
    other = scorer.state.replace(draws=Draws(3), neighbours=4)
    found = []
    for each in (scorer, dataclasses.replace(scorer, state=other)):
        id_set = sets.IDSet("cifar10", each, tiny_sets.SPLIT, tiny_sets.TESTS)
        tables = {encoders.identity(each.encoder): each.encoder}
        found.append(
            engine.around(Cache(tmp_path), id_set, tables, Guests(), ["spem"], 1, curves=False)
        )
    for which, seen in found[0].seen.items():
        jax.tree.map(np.testing.assert_array_equal, seen, found[1].seen[which])
    assert found[0].strengths == found[1].strengths


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            lambda images: images.mean((1, 2, 3)),
            "gives a ndarray for 4 images of a; expected a Named",
        ),
        (lambda images: Scores(images.mean()), "cannot score images of shape|gives a Scores for"),
        (
            lambda images: Scores(jnp.nan * images.mean((1, 2, 3))),
            "mine gives NaN for 4 of 4 images of a",
        ),
    ],
)
def test_a_detector_of_another_form_is_named(made, words, scorer, tmp_path):
    mine = Detector(lambda key, split: None, lambda state, key, images: made(images))
    tests = {"a": small.images(4), "b": small.images(5)}
    id_set = sets.IDSet("a", scorer, None, tests)
    with pytest.raises(InputError, match=words):
        engine.detect(Cache(tmp_path), id_set, {"mine": mine}, 1, {"": None})
