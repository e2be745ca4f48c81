import re

import numpy as np
import pytest

from ecood.words import number_of, short
from tests.test_docs import ROOT


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2, ("copy", "copies"), "2 copies"),
        (1, ("byte is", "bytes are"), "1 byte is"),
        (1234567, ("calibration image",), "1,234,567 calibration images"),
    ],
)
def test_a_number_and_its_noun_agree(count, noun, words):
    assert number_of(count, *noun) == words


def test_a_short_number_is_one_that_json_has():
    assert [short(np.float32(x)) for x in (0.1, 16777216, np.nan, np.inf)] == [
        0.1,
        16777216.0,
        None,
        None,
    ]


def test_no_sentence_has_a_plural_after_a_length_which_may_be_one():
    length = re.compile(r"\{len\([^{}]*\}( of \{[^{}]*\})? ([a-z-]+ ){0,2}[a-z]+s\b")
    lines = [
        (path.name, line)
        for path in (ROOT / "ecood").rglob("*.py")
        for line in path.read_text().splitlines()
    ]
    assert [(name, line) for name, line in lines if length.search(line)] == []
