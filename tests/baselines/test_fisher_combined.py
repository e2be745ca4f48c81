import numpy as np
import pytest
import scipy.stats

from ecood import baselines
from ecood.baselines.fisher_combined import DAMPING, fit_tail, log_tail_probability
from ecood.detector import detections, scores
from tests.baselines import tiny
from tests.baselines.test_fisher import KEY, SCALE, gradients


def test_fishers_combination_of_two_empirical_p_values():
    split, images = tiny.split(600), tiny.images(12, 1)
    information = [np.mean(g**2, axis=0) + DAMPING for g in gradients(split.train)]

    def statistics(images):
        pairs = zip(gradients(images), information, strict=True)
        score = sum(np.sum(g**2 / f, axis=1) for g, f in pairs)
        return tiny.known_statistics(KEY, images, SCALE)[:, 0], np.log(score)

    bits, score = statistics(split.held_out)
    entropy = bits.mean()
    id_values = np.stack([np.abs(bits - entropy), score])
    values = np.stack([np.abs(statistics(images)[0] - entropy), statistics(images)[1]])
    inside = np.all(values < id_values.max(axis=1, keepdims=True), axis=0)
    assert inside.sum() >= 4
    p = (1 + (id_values[:, None] >= values[..., None]).sum(axis=2)) / (1 + len(split.held_out))
    expected = [scipy.stats.combine_pvalues(column).statistic for column in p.T]

    detector = baselines.fisher_combined(tiny.gaussian(SCALE))
    state = detector.fit(KEY, split)
    np.testing.assert_allclose(state.information["scale"], information[1], rtol=1e-3)
    found = detections(detector, state, KEY, images)
    got = found.score
    np.testing.assert_allclose(got[inside], np.array(expected)[inside], rtol=1e-4)
    log_p = np.log(p.T[inside])
    np.testing.assert_allclose(found.log_p_typicality[inside], log_p[:, 0], rtol=1e-4)
    np.testing.assert_allclose(found.log_p_statistic[inside], log_p[:, 1], rtol=1e-4)
    odd = scores(detector, state, KEY, tiny.hard_images())
    assert odd.min() > got.max()


def test_p_values_go_on_falling_beyond_all_id_images():
    rng = np.random.default_rng(0)
    tail = fit_tail(rng.exponential(2.0, 5000))
    assert float(tail.excess) == pytest.approx(2.0, rel=0.15)
    at = np.float32([0.0, 1.0, 5.0, 30.0, 40.0, 1e6])
    log_p = np.asarray(log_tail_probability(tail, at))
    np.testing.assert_allclose(log_p[:3], scipy.stats.expon(scale=2.0).logsf(at[:3]), atol=0.15)
    assert log_p[0] == 0 and np.all(np.diff(log_p) < 0) and np.all(np.isfinite(log_p))
    assert log_p[4] - log_p[3] == pytest.approx(-10 / float(tail.excess), rel=1e-4)


@pytest.mark.parametrize("n", [3, 5, 10, 400])
def test_the_tail_is_the_excess_over_the_quantile_of_few_images_too(n):
    values = np.random.default_rng(0).normal(size=n)
    quantile = np.quantile(values, 0.9)
    expected = np.mean(values[values >= quantile] - quantile)
    np.testing.assert_allclose(fit_tail(values).excess, expected, rtol=1e-5)
