from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from ecood.cache import Cache
from ecood.detector import Detector
from ecood.errors import InputError
from ecood.evaluation import engine, sets
from tests import small
from tests.evaluation import tiny_sets


@pytest.fixture(scope="module")
def scorer():
    return tiny_sets.scorer()


class Scores(NamedTuple):
    score: jax.Array


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
