"""Means over retrained flows: what they say, and how often their intervals cover."""

import numpy as np
import pytest

from ecood import metrics
from ecood.comparison import paired_delong_difference
from ecood.errors import InputError
from ecood.over_flows import auroc_over_flows, mean_auroc_difference


def scores_of(rng, n, lift):
    shared = rng.normal(size=n)
    return [shared + lift + 0.5 * rng.normal(size=n) for _ in range(2)]


def test_the_mean_over_one_pair_is_delongs():
    rng = np.random.default_rng(0)
    (id_a, id_b), (ood_a, ood_b) = scores_of(rng, 60, 0), scores_of(rng, 50, 1)
    one = paired_delong_difference(id_a, ood_a, id_b, ood_b)
    mean = mean_auroc_difference({("x", "y"): [(id_a, ood_a, id_b, ood_b)]})
    np.testing.assert_allclose(mean.difference, one.difference)
    np.testing.assert_allclose(mean.interval, one.interval, rtol=1e-6)


def test_images_that_pairs_share_are_counted_once():
    """The same pair twice knows no more than once; two independent ones know more."""
    rng = np.random.default_rng(1)
    (id_a, id_b), (ood_a, ood_b) = scores_of(rng, 60, 0), scores_of(rng, 50, 1)
    pair = [(id_a, ood_a, id_b, ood_b)]
    width = [
        np.ptp(mean_auroc_difference(pairs).interval)
        for pairs in (
            {("x", "y"): pair},
            {("x", "y"): pair, ("x", "z"): pair},
            {("x", "y"): pair, ("v", "w"): pair},
        )
    ]
    assert width[0] > width[1] > width[2]
    np.testing.assert_allclose(width[2], width[0] / np.sqrt(2), rtol=1e-6)


def test_the_interval_of_the_mean_covers():
    """Of equal detectors on three pairs that share their ID images, 95% of intervals hold 0."""
    rng, covered = np.random.default_rng(2), []
    for _ in range(400):
        (id_a, id_b), pairs = scores_of(rng, 80, 0), {}
        for name in "uvw":
            ood_a, ood_b = scores_of(rng, 70, 1)
            pairs["x", name] = [(id_a, ood_a, id_b, ood_b)]
        low, high = mean_auroc_difference(pairs).interval
        covered.append(low <= 0 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_a_mean_over_pairs_that_do_not_fit_is_refused():
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=5), rng.normal(size=6)
    with pytest.raises(InputError, match="no pair"):
        mean_auroc_difference({})
    with pytest.raises(InputError, match="6 images in one pair and 5"):
        mean_auroc_difference({("x", "y"): [(one,) * 4], ("x", "z"): [(other,) * 4]})


def retrained(rng, flows, ood, n=80, m=70, spread=0.4, common=1.0):
    """Scores of flows on the same images; each has a quality of its own."""
    images = common * rng.normal(size=n), common * rng.normal(size=m)

    def one():
        shift = 1.2 + spread * rng.normal()
        return (
            images[0] + 0.3 * rng.normal(size=n),
            images[1] + 0.3 * rng.normal(size=m) + ood * shift,
        )

    return [one() for _ in range(flows)]


def test_the_mean_over_flows_is_that_of_their_aurocs():
    scores = retrained(np.random.default_rng(0), 3, 1)
    found = auroc_over_flows(scores)
    assert found.each == pytest.approx([metrics.auroc(*one) for one in scores])
    assert found.auroc == pytest.approx(np.mean(found.each))
    assert found.interval[0] < min(found.each) and found.interval[1] > max(found.each)


def test_flows_that_agree_leave_the_interval_over_images():
    (one,) = retrained(np.random.default_rng(1), 1, 1)
    found = auroc_over_flows([one, one, one])
    np.testing.assert_allclose(found.interval, metrics.auroc_interval(*one), rtol=1e-6)
    perfect = np.zeros(50), np.ones(50)
    found = auroc_over_flows([perfect, perfect])
    np.testing.assert_allclose(found.interval, metrics.auroc_interval(*perfect), rtol=1e-6)


def test_intervals_over_few_flows_cover_what_flows_and_images_do():
    """Three flows of varying quality: 95% intervals hold the mean over all flows and images.

    An interval over images alone of the first flow does not.
    """
    rng = np.random.default_rng(2)
    many = retrained(rng, 400, 1, n=2000, m=2000)
    truth = np.mean([metrics.auroc(*one) for one in many])
    covered, over_images = [], []
    for _ in range(300):
        scores = retrained(rng, 3, 1)
        low, high = auroc_over_flows(scores).interval
        covered.append(low <= truth <= high)
        low, high = metrics.auroc_interval(*scores[0])
        over_images.append(low <= truth <= high)
    assert 0.92 <= np.mean(covered) <= 0.995
    assert np.mean(over_images) < 0.9


def test_the_interval_of_a_mean_difference_over_flows_covers():
    """Detectors that are equal in the mean over flows, not around each one."""
    rng, covered = np.random.default_rng(3), []
    for _ in range(300):
        pairs = {}
        for name in "uv":
            a, b = (retrained(rng, 3, 1) for _ in range(2))
            pairs["x" + name, name] = [(*one, *other) for one, other in zip(a, b, strict=True)]
        low, high = mean_auroc_difference(pairs).interval
        covered.append(low <= 0 <= high)
    assert 0.93 <= np.mean(covered) <= 0.995


def test_flows_that_do_not_fit_are_refused():
    one, other = np.arange(5.0), np.arange(6.0)
    for count in ("0 flows were", "1 flow was"):
        with pytest.raises(InputError, match=f"{count} given"):
            auroc_over_flows([(one, one)] * int(count[0]))
    with pytest.raises(InputError, match="x → z has scores of no flow; expected those of one"):
        mean_auroc_difference({("x", "y"): [(one,) * 4], ("x", "z"): []})
    with pytest.raises(InputError, match="scored unequal numbers of images, 5 and 6"):
        auroc_over_flows([(one, one), (other, one)])
    with pytest.raises(InputError, match="2 flows in one pair and 1 in another"):
        mean_auroc_difference({("x", "y"): [(one,) * 4], ("x", "z"): [(one,) * 4] * 2})


@pytest.mark.parametrize("sign", [-1, 1])
def test_images_that_are_id_here_and_ood_there_are_counted_once(sign):
    """Two equal detectors on two sets, each ID against the other: 95% covers 95% of the time."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(400):
        (a, b), (c, d) = rng.normal(size=(2, 2, 100))  # of A on sets u, v; of B
        pairs = {
            ("u", "v"): [(a, 1.5 + sign * b, c, 1.5 + sign * d)],
            ("v", "u"): [(b, 1.5 + sign * a, d, 1.5 + sign * c)],
        }
        low, high = mean_auroc_difference(pairs).interval
        covered.append(low <= 0 <= high)
    assert 0.92 < np.mean(covered) < 0.98


def test_one_image_has_no_variance():
    ood = np.random.default_rng(0).normal(size=50)
    with pytest.raises(InputError, match="1 ID and 50 OOD scores were given; expected two or more"):
        auroc_over_flows([(np.array([0.1 * k]), ood) for k in range(3)])


def test_a_role_that_lacks_images_is_counted_apart():
    rng = np.random.default_rng(0)
    u, v, w = (rng.normal(size=(2, n)) for n in (60, 50, 40))  # w: v without ten of its images
    apart = {("u", "v"): [(u[0], v[0], u[1], v[1])], ("w", "u"): [(w[0], u[0], w[1], u[1])]}
    named = {("u", "v"): apart["u", "v"], ("v", "u"): apart["w", "u"]}
    assert mean_auroc_difference(named) == mean_auroc_difference(apart)


def test_no_variance_is_no_evidence():
    found = mean_auroc_difference({("u", "v"): [([0, 0], [1, 1], [0, 0], [0, 0])]})
    assert found == (0.5, (-1.0, 1.0), 1.0)
    for n in (10, 30, 1000):  # sums that round
        zeros, ones = np.zeros(n), np.ones(n)
        pairs = {("u", f"v{k}"): [(zeros, ones, zeros, zeros)] for k in range(7)}
        assert mean_auroc_difference(pairs) == (pytest.approx(0.5), (-1.0, 1.0), 1.0)
