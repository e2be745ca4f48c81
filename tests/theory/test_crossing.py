import numpy as np
import pytest

from ecood.theory import crossing


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1, 1, 2], 0.5),
        ([1, 2, 3], 0.0),
        ([-1, -1, -1], None),
        ([1, -1, 3], 1.25),
        ([-np.inf, 1, 1], 1.0),
        ([1, np.nan, 1], 2.0),
        ([-1, 1, np.nan], 0.5),
        ([np.nan, np.nan, np.nan], None),
    ],
)
def test_where_a_curve_turns_positive_for_good(values, expected):
    got = crossing.turns_positive(np.array([0.0, 1.0, 2.0]), np.array(values, float))
    assert got == (expected if expected is None else pytest.approx(expected))


def test_the_first_and_the_last_point_where_a_curve_is_positive():
    at = np.arange(5.0)
    assert crossing.positive_range(at, [-1, 2, 0, 1, -1]) == (1, 3)
    assert crossing.positive_range(at, -at) == (None, None)
