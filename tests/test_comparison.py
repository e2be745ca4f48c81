import itertools

import numpy as np
import pytest
from scipy import stats

from ecood import metrics
from ecood.comparison import (
    holm,
    paired_auroc_difference,
    paired_delong_difference,
)
from ecood.errors import InputError

METHODS = [
    lambda *scores: paired_auroc_difference(*scores, resamples=400),
    paired_delong_difference,
]


def detectors(rng, n, m, shift_a=1.5, shift_b=1.0, levels=None):
    """Two detectors whose scores share most of their noise."""
    ids, ood = rng.normal(size=n), rng.normal(size=m)
    scores = (
        ids,
        ood + shift_a,
        ids + 0.5 * rng.normal(size=n),
        ood + shift_b + 0.5 * rng.normal(size=m),
    )
    return scores if levels is None else tuple(np.round(levels * s) for s in scores)


@pytest.mark.parametrize("levels", [None, 2])
def test_bootstrap_is_the_plain_one(levels):
    """The vectorised resampling gives what drawing and scoring each resample gives."""
    rng = np.random.default_rng(0)
    id_a, ood_a, id_b, ood_b = detectors(rng, 30, 20, levels=levels)
    found = paired_auroc_difference(id_a, ood_a, id_b, ood_b, seed=7, resamples=50)
    draw = np.random.default_rng(7)
    of_id, of_ood = draw.integers(30, size=(50, 30)), draw.integers(20, size=(50, 20))
    drawn = np.array(
        [
            metrics.auroc(id_a[i], ood_a[j]) - metrics.auroc(id_b[i], ood_b[j])
            for i, j in zip(of_id, of_ood, strict=True)
        ]
    )
    np.testing.assert_allclose(found.interval, np.quantile(drawn, [0.025, 0.975]), atol=1e-12)
    tail = min(np.sum(drawn <= 1e-12), np.sum(drawn >= -1e-12))
    assert found.p_value == pytest.approx(min(1, 2 * (1 + tail) / 51))
    assert found.difference == metrics.auroc(id_a, ood_a) - metrics.auroc(id_b, ood_b)


def test_delong_and_bootstrap_agree_on_a_large_sample():
    scores = detectors(np.random.default_rng(1), 800, 600)
    bootstrap = paired_auroc_difference(*scores)
    delong = paired_delong_difference(*scores)
    assert delong.difference == pytest.approx(bootstrap.difference, abs=1e-12)
    width = delong.interval[1] - delong.interval[0]
    # the quantiles of 2,000 resamples have a standard error of 0.06 sigma = 0.015 widths
    np.testing.assert_allclose(bootstrap.interval, delong.interval, atol=0.06 * width)
    assert max(bootstrap.p_value, delong.p_value) < 0.001


def test_pairing_cancels_what_the_detectors_share():
    id_a, ood_a, id_b, ood_b = detectors(np.random.default_rng(2), 300, 300)
    shuffled = np.random.default_rng(3).permutation(300)
    for method in METHODS:
        low, high = method(id_a, ood_a, id_b, ood_b).interval
        low_unpaired, high_unpaired = method(id_a, ood_a, id_b[shuffled], ood_b[shuffled]).interval
        assert high - low < 0.75 * (high_unpaired - low_unpaired)


@pytest.mark.parametrize("method", METHODS)
def test_interval_covers_the_truth_and_the_test_keeps_its_level(method):
    """300 samples with no true difference: 0.95 is within 0.038 = 3 sigma."""
    rng = np.random.default_rng(4)
    same = 1.5 * np.sqrt(1.25)  # detector B is noisier; this shift makes its AUROC that of A
    covered = rejected = 0
    for _ in range(300):
        found = method(*detectors(rng, 60, 50, shift_b=same))
        covered += found.interval[0] <= 0 <= found.interval[1]
        rejected += found.p_value < 0.05
    assert 0.912 <= covered / 300 <= 0.988
    assert rejected / 300 <= 0.088


def test_near_one_delong_keeps_its_level_and_the_bootstrap_does_not():
    """AUROC 0.95 with 40 + 40 images, wide OOD scores: 400 samples, 3 sigma at 0.05 is 0.033."""
    rng, rejected = np.random.default_rng(8), np.zeros(2)
    shift = stats.norm.ppf(0.95) * np.sqrt(20)
    for _ in range(400):
        ids, ood = rng.normal(size=(3, 40)), rng.normal(size=(3, 40))
        scores = [s for i in (1, 2) for s in (ids[0] + ids[i], shift + 3 * (ood[0] + ood[i]))]
        rejected += [method(*scores).p_value < 0.05 for method in METHODS]
    bootstrap, delong = rejected / 400
    assert delong < 0.07
    assert 0.06 < bootstrap < 0.13


@pytest.mark.parametrize("method", METHODS)
def test_the_sign_says_which_is_better(method):
    scores = detectors(np.random.default_rng(5), 200, 200)
    better, worse = method(*scores), method(*scores[2:], *scores[:2])
    assert better.difference > 0 and better.interval[0] > 0 and better.p_value < 0.05
    assert worse.difference == -better.difference
    np.testing.assert_allclose(worse.interval, [-better.interval[1], -better.interval[0]])


@pytest.mark.parametrize("method", METHODS)
def test_detectors_that_rank_alike_do_not_differ(method):
    id_scores, ood_scores, *_ = detectors(np.random.default_rng(6), 40, 50)
    found = method(id_scores, ood_scores, 3 * id_scores + 1, 3 * ood_scores + 1)
    assert found == (0.0, (0.0, 0.0), 1.0)


def test_same_seed_same_numbers():
    scores = detectors(np.random.default_rng(7), 30, 30)
    first = paired_auroc_difference(*scores, seed=1, resamples=100)
    assert first == paired_auroc_difference(*scores, seed=1, resamples=100)
    assert first != paired_auroc_difference(*scores, seed=2, resamples=100)


@pytest.mark.parametrize("method", METHODS)
def test_unpaired_or_broken_scores_are_refused(method):
    with pytest.raises(InputError, match="ood_scores_a has 2 scores but ood_scores_b has 3"):
        method([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="^id_scores_b holds 1 score that is NaN"):
        method([1.0, 2.0], [1.0, 2.0], [1.0, np.nan], [1.0, 2.0])


def test_settings_out_of_range_are_refused():
    pair = ([1.0, 2.0], [2.0, 3.0])
    for count in (0, 2.5, "x"):
        with pytest.raises(InputError, match=f"resamples is {count!r}; expected a whole number"):
            paired_auroc_difference(*pair, *pair, resamples=count)
    for wrong in (-1, 1.5, "x"):
        with pytest.raises(InputError, match="seed is .*; expected a whole number from 0"):
            paired_auroc_difference(*pair, *pair, seed=wrong)
    with pytest.raises(InputError, match="level is 95"):
        paired_auroc_difference(*pair, *pair, level=95)
    with pytest.raises(InputError, match="1 ID and 2 OOD scores"):
        paired_delong_difference([1.0], [1.0, 2.0], [1.0], [1.0, 2.0])


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
    np.testing.assert_allclose(holm([0.2]), [0.2])
    assert holm([]).shape == (0,) and holm((0, 1)).dtype == np.float64


def test_holm_is_the_closed_bonferroni_test():
    """A hypothesis is rejected if Bonferroni rejects every intersection that contains it."""
    rng = np.random.default_rng(0)
    for size in (2, 3, 5):
        p = np.round(rng.beta(0.3, 3, size), 2)  # with ties
        subsets = [list(s) for r in range(size) for s in itertools.combinations(range(size), r + 1)]
        closed = [max(min(1, len(s) * min(p[s])) for s in subsets if k in s) for k in range(size)]
        np.testing.assert_allclose(holm(p), closed)


def test_holm_keeps_the_family_wise_error():
    """One true effect among eight correlated tests: a false rejection in at most 5%."""
    rng = np.random.default_rng(1)
    z = 0.5**0.5 * (rng.normal(size=(2_000, 8)) + rng.normal(size=(2_000, 1)))
    z[:, 0] += 4
    adjusted = np.array([holm(p) for p in 2 * stats.norm.sf(abs(z))])
    assert np.mean(adjusted[:, 0] < 0.05) > 0.8
    assert np.mean(np.any(adjusted[:, 1:] < 0.05, axis=1)) < 0.05 + 3 * np.sqrt(0.05 / 2_000)


@pytest.mark.parametrize("wrong", [[0.5, 1.2], [np.nan], [[0.5]], 0.5, "x", ["x"], [None]])
def test_holm_refuses_what_is_no_list_of_p_values(wrong):
    with pytest.raises(InputError, match="p_values is .*; expected .K. numbers between 0 and 1"):
        holm(wrong)


def test_a_difference_that_all_images_share_is_no_evidence():
    found = paired_delong_difference([0, 0], [1, 1], [0, 0], [0, 0])
    assert found == (0.5, (-1.0, 1.0), 1.0)
    assert paired_delong_difference([0, 0], [1, 1], [0, 0], [1, 1]) == (0.0, (0.0, 0.0), 1.0)
    # Placements of 1/3 and 2/3, whose differences are equal but for rounding.
    found = paired_delong_difference([0, 2, 4], [1, 3, 5], [1, 3, 5], [0, 2, 4])
    assert found[1:] == ((-1.0, 1.0), 1.0)


def test_one_image_says_nothing():
    for method in (paired_delong_difference, paired_auroc_difference):
        with pytest.raises(InputError, match="1 ID and 1 OOD scores were given; expected two or"):
            method([0], [1], [0], [-1])
