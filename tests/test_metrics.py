import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from ecood import metrics
from ecood.errors import InputError


def with_ties(seed):
    """Unequal numbers of ID and OOD scores on few levels: most scores are tied."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 60, 2)
    return rng.integers(0, 8, n) / 7, rng.integers(1, 10, m) / 7


def without_ties(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 60, 2)
    return rng.normal(size=n), rng.normal(0.7, 2, size=m)


def labelled(id_scores, ood_scores):
    return np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))], np.r_[id_scores, ood_scores]


SAMPLES = [draw(seed) for draw in (with_ties, without_ties) for seed in range(10)]


@pytest.mark.parametrize("scores", SAMPLES)
def test_auroc_and_aupr_equal_scikit_learn(scores):
    is_ood, score = labelled(*scores)
    np.testing.assert_allclose(
        metrics.auroc(*scores), sklearn_metrics.roc_auc_score(is_ood, score), rtol=1e-12
    )
    np.testing.assert_allclose(
        metrics.aupr_out(*scores),
        sklearn_metrics.average_precision_score(is_ood, score),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        metrics.aupr_in(*scores),
        sklearn_metrics.average_precision_score(1 - is_ood, -score),
        rtol=1e-12,
    )


@pytest.mark.parametrize("scores", SAMPLES)
@pytest.mark.parametrize("tpr", [0.05, 0.5, 0.95, 1.0])
def test_fpr_equals_scikit_learns_first_threshold_that_reaches_the_tpr(scores, tpr):
    is_ood, score = labelled(*scores)

    def first_fpr(positive, rank):
        fprs, tprs, _ = sklearn_metrics.roc_curve(positive, rank, drop_intermediate=False)
        return fprs[np.argmax(tprs >= tpr - 1e-9)]

    assert metrics.fpr_at_tpr(*scores, tpr=tpr) == pytest.approx(first_fpr(1 - is_ood, -score))
    assert metrics.fpr_at_ood_tpr(*scores, tpr=tpr) == pytest.approx(first_fpr(is_ood, score))


@pytest.mark.parametrize("scores", SAMPLES)
def test_the_roc_curve_is_scikit_learns_and_encloses_the_auroc(scores):
    is_ood, score = labelled(*scores)
    false, true, _ = sklearn_metrics.roc_curve(is_ood, score, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc(*scores), [false, true], atol=1e-12)
    area = np.trapezoid(true, false)
    assert metrics.auroc(*scores) == pytest.approx(area)


def test_the_two_fprs_answer_different_questions():
    ids = np.arange(100.0)
    ood = np.full(100, 94.5)  # above 95 of the ID scores
    assert metrics.fpr_at_tpr(ids, ood) == 0.0
    assert metrics.fpr_at_ood_tpr(ids, ood) == 0.05
    assert metrics.fpr_at_tpr(ids, ood - 1) == 1.0


def test_fpr_needs_no_more_images_than_asked_for():
    # 0.07 * 100 = 7.000000000000001: seven images are enough
    assert metrics.fpr_at_tpr(np.arange(100.0), np.array([6.5, 7.0]), tpr=0.07) == 0.0


def test_auroc_by_hand():
    assert metrics.auroc([0, 1], [1, 2]) == 0.875  # 3 pairs right and one tied, of 4
    assert metrics.auroc([0, 1], [2, 3]) == 1.0
    assert metrics.auroc([2, 3], [0, 1]) == 0.0
    assert metrics.auroc([1, 1, 1], [1, 1]) == 0.5


def test_placements_average_to_the_auroc_and_give_delongs_variance():
    ids, ood = with_ties(3)
    wins = (ood[:, None] > ids) + 0.5 * (ood[:, None] == ids)
    of_id, of_ood = metrics.placements(ids, ood)
    np.testing.assert_allclose(of_id, wins.mean(axis=0))
    np.testing.assert_allclose(of_ood, wins.mean(axis=1))
    expected = wins.mean(axis=0).var(ddof=1) / len(ids) + wins.mean(axis=1).var(ddof=1) / len(ood)
    np.testing.assert_allclose(metrics.delong_variance(of_id, of_ood), expected)


def test_interval_is_the_logit_interval():
    # AUROC 0.8125 from 4 + 4 scores, DeLong's variance by hand:
    # placements of ID 1, 1, 3/4, 1/2 and of OOD 1/2, 3/4, 1, 1; both variances 11/192.
    low, high = metrics.auroc_interval([0.0, 1.0, 2.5, 3.5], [2.0, 3.0, 4.0, 5.0])
    width = 1.959964 * np.sqrt(2 * 11 / 192 / 4) / (0.8125 * 0.1875)
    centre = np.log(0.8125 / 0.1875)
    np.testing.assert_allclose([low, high], 1 / (1 + np.exp([width - centre, -width - centre])))


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "area"),
    [
        (np.zeros(50), np.ones(80), 1.0),
        (np.ones(50), np.zeros(80), 0.0),
        (np.zeros(50), np.zeros(80), 0.5),
        ([0.0], [1.0, 2.0], 1.0),
        ([1.0], [0.0, 2.0], 0.5),
    ],
)
def test_interval_has_a_width_where_the_sample_shows_no_variance(id_scores, ood_scores, area):
    low, high = metrics.auroc_interval(id_scores, ood_scores)
    trials = min(len(id_scores), len(ood_scores))
    wilson = stats.binomtest(round(area * 2 * trials), 2 * trials).proportion_ci(method="wilson")
    assert 0 <= low <= area <= high <= 1
    assert high - low > wilson.high - wilson.low  # that of twice as many trials
    if area == 1.0:
        assert high == 1.0
        assert low == pytest.approx(trials / (trials + 1.959964**2), rel=1e-6)


def test_interval_mirrors_when_the_sets_change_places():
    ids, ood = without_ties(4)
    low, high = metrics.auroc_interval(ids, ood)
    mirrored = metrics.auroc_interval(ood, ids)
    np.testing.assert_allclose(mirrored, [1 - high, 1 - low])


def binormal(width):
    """OOD scores `width` times as wide as ID scores."""

    def draw(rng, area, n, m):
        shift = stats.norm.ppf(area) * np.hypot(1, width)
        return rng.normal(size=n), rng.normal(shift, width, size=m)

    return draw


def exponential(rng, area, n, m):
    return rng.exponential(size=n), rng.exponential(area / (1 - area), size=m)


def mixed(rng, area, n, m):
    """Some OOD scores are as ID scores, the others far above."""
    ood = rng.normal(size=m)
    return rng.normal(size=n), np.where(rng.random(m) < 2 * (1 - area), ood, ood + 20)


DRAWS = [binormal(1), binormal(3), exponential, mixed]


def coverage(draw, area, n, m, samples=500):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(samples):
        low, high = metrics.auroc_interval(*draw(rng, area, n, m))
        covered += low <= area <= high
    return covered / samples


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(
    ("area", "n", "m"),
    [(0.5, 40, 40), (0.75, 20, 20), (0.9, 50, 50), (0.95, 200, 100), (0.99, 500, 500)],
)
def test_interval_covers_the_truth_where_five_images_are_ranked_wrongly(draw, area, n, m):
    """500 samples: within the docstring's 0.93 to 0.97 by 0.02 = 2 sigma."""
    assert 0.91 <= coverage(draw, area, n, m) <= 0.99


@pytest.mark.parametrize(
    ("area", "n", "m", "worst", "best"),
    [
        (0.98, 100, 100, 0.87, 0.96),
        (0.99, 100, 100, 0.80, 0.96),
        (0.98, 40, 40, 0.87, 0.95),
        (0.999, 500, 500, 0.74, 0.92),
    ],
)
def test_interval_covers_less_where_fewer_are_as_documented(area, n, m, worst, best):
    """By distribution; 3 sigma of 500 samples at 0.74 is 0.06."""
    found = [coverage(draw, area, n, m) for draw in DRAWS]
    assert worst - 0.06 <= min(found) < 0.92 and max(found) <= best + 0.03


def test_interval_is_too_narrow_for_few_ood_images_and_wide_scores():
    assert coverage(binormal(3), 0.99, 1_000, 40) == pytest.approx(0.64, abs=0.06)


def test_the_logit_interval_covers_more_than_the_plain_one():
    rng, plain = np.random.default_rng(0), 0
    for _ in range(500):
        ids, ood = binormal(1)(rng, 0.99, 200, 200)
        error = 1.96 * np.sqrt(metrics.delong_variance(*metrics.placements(ids, ood)))
        plain += abs(metrics.auroc(ids, ood) - 0.99) <= error
    assert plain / 500 < coverage(binormal(1), 0.99, 200, 200)


def test_interval_covers_the_truth_with_ties():
    rng = np.random.default_rng(1)
    levels = np.arange(5)
    wins = (levels[:, None] + 2 > levels) + 0.5 * (levels[:, None] + 2 == levels)
    covered = 0
    for _ in range(600):
        low, high = metrics.auroc_interval(rng.integers(0, 5, 100), rng.integers(2, 7, 40))
        covered += low <= wins.mean() <= high
    assert 0.92 <= covered / 600 <= 0.98


def test_interval_narrows_with_the_level():
    ids, ood = without_ties(5)
    wide, narrow = (metrics.auroc_interval(ids, ood, level=level) for level in (0.99, 0.8))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_evaluate_gathers_the_metrics():
    ids, ood = with_ties(6)
    found = metrics.evaluate(ids.tolist(), ood.astype(np.float32).astype(np.float64))
    ood = ood.astype(np.float32).astype(np.float64)
    assert found == metrics.Metrics(
        metrics.auroc(ids, ood),
        metrics.auroc_interval(ids, ood),
        metrics.aupr_in(ids, ood),
        metrics.aupr_out(ids, ood),
        metrics.fpr_at_tpr(ids, ood),
        len(ids),
        len(ood),
    )
    assert all(type(value) is float for value in [*found.auroc_ci, *found[:1], *found[2:5]])


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([], "shape \\[0\\]"),
        ([[1.0, 2.0]], "shape \\[1, 2\\]"),
        (3.0, "shape \\[\\]"),
        ([1.0, np.nan, np.inf], "2 scores that are NaN or infinite, of 3"),
        (["a"], "cannot be read as numbers"),
        ([10**400], "cannot be read as numbers"),
        ([1 + 1j], "cannot be read as numbers"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), "cannot be read as numbers"),
    ],
)
@pytest.mark.parametrize(
    "function",
    [
        metrics.auroc,
        metrics.auroc_interval,
        metrics.aupr_in,
        metrics.aupr_out,
        metrics.fpr_at_tpr,
        metrics.fpr_at_ood_tpr,
        metrics.evaluate,
    ],
)
def test_scores_that_are_no_scores_are_refused(function, scores, words):
    with pytest.raises(InputError, match=f"^id_scores .*{words}"):
        function(scores, [1.0])
    with pytest.raises(InputError, match=f"^ood_scores .*{words}"):
        function([1.0], scores)


def test_shares_out_of_range_are_refused():
    with pytest.raises(InputError, match="tpr is 0"):
        metrics.fpr_at_tpr([1.0], [2.0], tpr=0)
    with pytest.raises(InputError, match="tpr is 95"):
        metrics.fpr_at_ood_tpr([1.0], [2.0], tpr=95)
    for wrong in (95, 1, 1.0, "x", "0.9", None, math.nan, np.array([0.9]), 1j):
        with pytest.raises(InputError, match="^level is"):
            metrics.auroc_interval([1.0], [2.0], level=wrong)
    for wrong in ("x", None, [0.9], 1.1):
        with pytest.raises(InputError, match="^tpr is"):
            metrics.fpr_at_tpr([1.0], [2.0], tpr=wrong)
    assert metrics.fpr_at_tpr([1.0], [2.0], tpr=np.array(1)) == 0.0
