"""Conformal p-values keep their promise: by simulation, for small samples and for ties."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ecood.score
from ecood import conformal, encoders, flows
from ecood.errors import InputError
from tests import small

SPLITS = 400
FPRS = (0.01, 0.05, 0.1, 0.25, 0.5)


def normal(rng, size):
    return rng.normal(size=size)


def tied(rng, size):
    """Six values, so most scores are equal to others."""
    return rng.binomial(5, 0.3, size).astype(float)


def half_tied(rng, size):
    """A continuous score that saturates, as a guarded likelihood does."""
    return np.minimum(rng.normal(size=size), 0.3)


def splits(draw, n, m=200, seed=0):
    rng = np.random.default_rng([seed, n])
    for _ in range(SPLITS):
        yield draw(rng, n), draw(rng, m)


@pytest.mark.parametrize("draw", [normal, tied, half_tied])
@pytest.mark.parametrize("n", [1, 5, 19, 100, 999])
def test_the_false_positive_rate_is_at_most_the_requested_one(draw, n):
    rates = {fpr: [] for fpr in FPRS}
    for calibration, scores in splits(draw, n):
        p = conformal.p_values(calibration, scores)
        for fpr in FPRS:
            flagged = scores > conformal.threshold(calibration, fpr)
            np.testing.assert_array_equal(flagged, p <= fpr)
            rates[fpr].append(flagged.mean())
    for fpr, found in rates.items():
        error = np.std(found) / np.sqrt(SPLITS)
        assert np.mean(found) <= fpr + 3 * error
        promised = np.floor(fpr * (n + 1) + 1e-9) / (n + 1)
        if draw is normal:  # without ties the rate is known exactly, so nothing is given away
            assert abs(np.mean(found) - promised) <= 3.5 * error
        if promised == 0:
            assert not np.any(found)


def test_a_strict_inequality_would_flag_too_many():
    """Why ties count against flagging."""
    strict = [np.mean(s >= conformal.threshold(c, 0.05)) for c, s in splits(tied, 99)]
    assert np.mean(strict) > 0.06


def test_p_values_by_hand():
    p = conformal.p_values([3.0, 1.0, 2.0, 2.0], [0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0])
    np.testing.assert_allclose(p, np.array([5, 5, 4, 4, 2, 2, 1]) / 5)


@pytest.mark.parametrize("fpr", [0.07, 0.29, 0.57, 0.58, 0.1 + 0.2])
def test_decimal_rates_are_not_lost_to_rounding(fpr):
    """0.07 * 100 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996; 7 and 29 are meant."""
    scores = np.arange(99.0)
    flagged = conformal.p_values(scores, scores + 0.5) <= fpr
    assert flagged.sum() == np.sum(scores + 0.5 > conformal.threshold(scores, fpr))
    assert flagged.sum() == round(fpr * 100)


def test_a_rate_that_the_sample_cannot_guarantee_flags_nothing():
    assert conformal.threshold(np.arange(98.0), 0.01) == np.inf
    assert conformal.threshold(np.arange(99.0), 0.01) == 98.0
    assert conformal.realised_fpr(98, 0.01) == (0.0, 0.0)


@pytest.mark.parametrize("n", [40, 500])
def test_the_rate_of_one_calibration_set_lies_where_the_beta_law_says(n):
    low, high = conformal.realised_fpr(n, 0.1)
    assert conformal.expected_fpr(n, 0.1) == int(0.1 * (n + 1) + 1e-9) / (n + 1)
    rates = [np.mean(s > conformal.threshold(c, 0.1)) for c, s in splits(normal, n, m=5_000)]
    assert 0.92 < np.mean([low <= rate <= high for rate in rates]) < 0.98
    assert low < 0.1 < high


def verdicts(p, rates):
    """p <= rate in float64 and in float32: bool [2, ...]."""
    return np.stack([p.astype(np.float64) <= rates, p <= rates.astype(np.float32)])


def test_float32_p_values_decide_as_float64_ones():
    """Every n, k and rate of three decimals; p grows with k, so the two k at a rate are enough."""
    for n in range(1, 20_001):
        thousandths = np.arange(1, 1_000 if n <= 11_000 else 501)
        k = thousandths * (n + 1) // 1_000  # in integers
        p = conformal._float32_at_most(np.stack([k, k + 1]) / (n + 1))
        at_most, above = (verdicts(each, thousandths / 1_000) for each in p)
        assert at_most.all() and not above.any()


@pytest.mark.parametrize("draw", [normal, tied])
@pytest.mark.parametrize("n", [1, 99, 2_000])
def test_p_values_in_a_program_are_the_largest_float32_at_most_p(draw, n):
    calibration, scores = (x.astype(np.float32) for x in next(splits(draw, n)))
    found = np.asarray(jax.jit(conformal.p_values_in_graph)(calibration, scores))
    p = conformal.p_values(calibration, scores)
    assert found.dtype == np.float32
    assert np.all(found <= p) and np.all(np.nextafter(found, np.float32(2)) > p)
    np.testing.assert_array_equal(found <= 0.05, p <= 0.05)
    np.testing.assert_array_equal(conformal.p_values_in_graph(calibration[::-1], scores), found)
    nan = conformal.p_values_in_graph(calibration, np.full(1, np.nan, np.float32))
    assert nan[0] <= 1 / (n + 1)


def test_a_float32_quotient_would_not_decide_as_float64_does():
    assert np.float64(np.float32(5) / np.float32(100)) > 0.05 == 5 / 100


def assignments(pooled, n):
    """All ways to choose the calibration scores: (calibration, batch)."""
    for chosen in itertools.combinations(range(len(pooled)), n):
        yield pooled[list(chosen)], np.delete(pooled, chosen)


@pytest.mark.parametrize(
    ("pooled", "n"),
    [
        ([0, 0, 0, 1, 1, 1, 1, 2, 2, 3], 4),
        ([0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2], 5),
        ([0, 0, 0, 0, 0, 0, 1, 1], 2),
        ([0, 1, 2, 3, 3, 4, 5, 6, 7, 8], 7),
        (range(9), 4),
        ([5] * 6, 3),
    ],
)
def test_drift_is_the_permutation_test(pooled, n):
    """Against all assignments: p is the share of statistics at least as large."""
    found = [conformal.drift(c, s) for c, s in assignments(np.array(pooled, float), n)]
    statistic = np.array([d.statistic for d in found])
    expected = [stats.ks_2samp(c, s).statistic for c, s in assignments(np.array(pooled), n)]
    np.testing.assert_allclose(statistic, expected, atol=1e-12)
    share = np.mean(statistic >= statistic[:, None] - 1e-12, axis=1)
    np.testing.assert_allclose([d.p_value for d in found], share, rtol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (20, 30), (31, 7), (400, 1_000), (300, 301)])
@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_drift_without_ties_equals_scipy(n, m, shift):
    rng = np.random.default_rng(n)
    calibration, scores = rng.normal(size=n), rng.normal(shift, size=m)
    expected = stats.ks_2samp(calibration, scores, method="exact")
    found = conformal.drift(calibration, scores)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-9)


@pytest.mark.parametrize("draw", [normal, tied])
def test_beyond_its_size_drift_is_close_without_ties_and_conservative_with_them(draw, monkeypatch):
    pairs = [
        (c, s + 0.05) for (c, s), _ in zip(splits(draw, 500, m=3_000), range(20), strict=False)
    ]
    exact = np.array([conformal.drift(c, s).p_value for c, s in pairs])
    monkeypatch.setattr(conformal, "EXACT", 0)
    approximate = np.array([conformal.drift(c, s).p_value for c, s in pairs])
    assert np.all(approximate >= 0.97 * exact)
    if draw is normal:
        assert np.all(approximate <= 1.03 * exact)


@pytest.mark.parametrize("draw", [normal, tied, half_tied])
@pytest.mark.parametrize("sizes", [(19, 10), (100, 300)])
def test_without_drift_alarms_are_as_rare_as_promised(draw, sizes):
    p = np.array([conformal.drift(c, s).p_value for c, s in splits(draw, *sizes)])
    for level in (0.05, 0.2):
        error = np.sqrt(level * (1 - level) / SPLITS)
        assert np.mean(p <= level) < level + 3 * error
        if sizes[0] == 100:  # the statistic has few values in a small sample
            assert np.mean(p <= level) > 0.7 * level - 3 * error


def test_testing_p_values_against_the_uniform_law_would_raise_false_alarms():
    """Why `drift` compares two samples: the p-values of a batch share one calibration set."""
    alarms = [
        stats.kstest(conformal.p_values(c, s), "uniform").pvalue < 0.05
        for c, s in splits(normal, 200, m=1_000)
    ]
    assert np.mean(alarms) > 0.2


@pytest.mark.parametrize("shift", [-0.8, 0.8])
def test_drift_either_way_is_found(shift):
    found = [conformal.drift(c, s + shift).p_value for c, s in splits(normal, 200, m=100)]
    assert np.mean(np.array(found) < 0.01) > 0.95


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: conformal.p_values([], [1.0]), "calibration has shape"),
        (lambda: conformal.p_values([1.0], [np.nan]), "scores holds 1 score that is NaN"),
        (lambda: conformal.threshold([1.0], 0.0), "fpr is 0.0; expected a rate between 0 and 1"),
        (lambda: conformal.threshold([1.0], 5), "fpr is 5"),
        (lambda: conformal.threshold([1.0], "5%"), "fpr is '5%'"),
        (lambda: conformal.threshold([1.0], np.array([0.05, 0.1])), "fpr is array"),
        (lambda: conformal.p_values(np.ma.array([1.0, 2], mask=[0, 1]), [1.0]), "calibration cann"),
        (lambda: conformal.realised_fpr(0, 0.1), "n is 0"),
        (lambda: conformal.realised_fpr(math.nan, 0.1), "n is nan"),
        (lambda: conformal.expected_fpr(-1, 0.1), "n is -1; expected a whole number, 1 or more"),
        (lambda: conformal.expected_fpr(True, 0.1), "n is True"),
        (lambda: conformal.realised_fpr(9, [0.1]), "fpr is"),
        (lambda: conformal.realised_fpr(9, 0.1, level="x"), "level is 'x'"),
        (lambda: conformal.drift([1.0], [[1.0]]), "scores has shape"),
    ],
)
def test_wrong_numbers_are_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()


TRACED = []


def log_prob(variables, key, x):
    TRACED.append(x.shape)
    return -jnp.sum(x**2, axis=(1, 2, 3))


@pytest.fixture(scope="module")
def scorer():
    flow = flows.Flow(log_prob, {})
    return ecood.score.fit(flow, encoders.pixels(), small.images(80), noise_strength=0.1)


@pytest.fixture(scope="module")
def calibrated(scorer):
    return scorer.calibrate(small.images(99, seed=1))


def test_a_scorer_keeps_its_promise_over_splits(scorer):
    scores = scorer(small.images(1_000, seed=2))
    scores = np.concatenate([scores, scores[:100]])  # images that occur twice score twice the same
    rng, flagged = np.random.default_rng(0), []
    for _ in range(SPLITS):
        order = rng.permutation(len(scores))
        limit = conformal.threshold(scores[order[:50]], 0.1)
        flagged.append(np.mean(scores[order[50:]] > limit))
    assert np.mean(flagged) <= 0.1 + 3 * np.std(flagged) / np.sqrt(SPLITS)


def test_p_values_thresholds_and_flags_agree(scorer, calibrated):
    images = np.concatenate([small.images(50, seed=3), 255 - small.images(50, seed=4)])
    p, scores = calibrated.p_value(images), calibrated(images)
    np.testing.assert_array_equal(scores, scorer(images))
    np.testing.assert_array_equal(p, conformal.p_values(calibrated.calibration, scores))
    for fpr in (0.05, 0.3):
        np.testing.assert_array_equal(calibrated.is_ood(images, fpr), p <= fpr)
        np.testing.assert_array_equal(calibrated.is_ood(images, fpr=fpr), p <= fpr)
        assert calibrated.is_ood(images, fpr).dtype == bool
    assert not calibrated.is_ood(images, 0.001).any()
    drift = calibrated.drift(images)
    assert drift.n == 100 and 0 <= drift.statistic <= 1


def test_calibrating_changes_no_scorer_and_compiles_nothing(scorer):
    images = small.images(99, seed=1)
    scorer(images)
    before = len(TRACED)
    calibrated = scorer.calibrate(images)
    calibrated(images)
    assert len(TRACED) == before > 0
    assert scorer.calibration is None and calibrated.calibration.shape == (99,)


def test_copies_of_a_calibration_image_count_as_one(scorer):
    images = small.images(20, seed=1)
    copied = scorer.calibrate(images[np.arange(100) // 3 % 20])
    np.testing.assert_array_equal(copied.calibration, scorer.calibrate(images).calibration)
    one = scorer.calibrate(np.repeat(images[:1], 100, axis=0))
    assert "calibrated on 1 image)" in repr(one) and one.threshold(0.05) == np.inf


@pytest.fixture(scope="module")
def on_disk():
    """A scorer of modules of the package, which can be saved."""
    calibration = np.linspace(1, 2, 99, dtype=np.float32)
    return small.scorer(small.blank_flow(), encoders.pixels(), calibration=calibration)


def test_calibration_is_saved_with_the_scorer(on_disk, tmp_path):
    on_disk.save(tmp_path / "scorer")
    again = ecood.score.load(tmp_path / "scorer")
    np.testing.assert_array_equal(again.calibration, on_disk.calibration)
    assert again.threshold(0.05) == on_disk.threshold(0.05)
    dataclasses.replace(on_disk, calibration=None).save(tmp_path / "scorer")
    assert ecood.score.load(tmp_path / "scorer").calibration is None


def test_another_strength_is_another_scorer(on_disk, tmp_path):
    assert on_disk.with_noise_strength(0.2).calibration is None
    on_disk.save(tmp_path / "scorer")
    path = tmp_path / "scorer" / "scorer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"noise_strength": 0.2}))
    with pytest.raises(InputError, match="was made for a scorer with other weights or settings"):
        ecood.score.load(tmp_path / "scorer")


def test_uncalibrated_scorers_and_used_images_are_refused(scorer):
    images = small.images(80)
    for call in (scorer.p_value, scorer.is_ood, scorer.drift):
        with pytest.raises(InputError, match=r"is not calibrated.*call scorer\.calibrate"):
            call(images)
    with pytest.raises(InputError, match="not calibrated"):
        scorer.threshold(0.05)
    with pytest.raises(InputError, match="80 of 80 images were used for the memory bank"):
        scorer.calibrate(images)
