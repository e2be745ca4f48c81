import numpy as np
import pytest

from ecood import metrics, pairs
from ecood.errors import InputError

COMPARE = [pairs.compare, pairs.compare_means, pairs.over_flows]


def told(seed, flows=2, shift=1.0):
    """Scores of a detector around each of several flows."""
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=30), rng.normal(size=20) + shift) for _ in range(flows)]


SCORES = {("a", ood): {"mine": told(0), "theirs": told(1, shift=0.5)} for ood in "bc"}


def test_a_champion_is_compared_with_each_rival():
    mine, theirs = (
        [metrics.auroc(*one) for one in SCORES["a", "b"][d]] for d in ("mine", "theirs")
    )
    for one in pairs.compare(SCORES, "mine"):
        assert one["rival"] == "theirs" and one["difference"] == mine[0] - theirs[0]
    (mean,) = pairs.compare_means(SCORES, "mine")
    assert mean["difference"] == pytest.approx(mine[0] - theirs[0])
    (mean,) = pairs.over_flows(SCORES, "mine")["mean_comparisons"]
    assert mean["difference"] == pytest.approx(np.mean(mine) - np.mean(theirs))


@pytest.mark.parametrize("function", COMPARE)
def test_a_champion_that_ran_nowhere_is_refused(function):
    with pytest.raises(InputError, match="^nope ran on no pair; expected one of mine, theirs.$"):
        function(SCORES, "nope")


def test_without_a_champion_or_a_pair_nothing_is_compared():
    found = pairs.over_flows(SCORES, None)
    assert len(found["aurocs"]) == 4 and found["mean_comparisons"] == []
    assert [function({}, "mine") for function in COMPARE[:2]] == [[], []]
    some = SCORES | {("a", "d"): {"theirs": told(1)}}
    assert len(pairs.compare(some, "mine")) == 2 and pairs.compare_means(some, "mine") == []


def test_two_detectors_around_other_numbers_of_flows_are_refused():
    unequal = {("a", "b"): {"mine": told(0, 2), "theirs": told(1, 3)}}
    words = "scores of mine of 2 flows and theirs of 3 flows on a → b; expected the same flows"
    with pytest.raises(InputError, match=words):
        pairs.compare_means(unequal, "mine", every=True)
    with pytest.raises(InputError, match=words):
        pairs.over_flows(unequal, "mine")
