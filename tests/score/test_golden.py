"""The shipped scorers on the embedded pair: no change may move them unseen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import baselines, data, encoders, metrics
from ecood.detector import scores
from ecood.score import OF_0_1
from ecood.statistics import Reference

# AUROC [95% interval] when the scorer was shipped; 2,000 ID and 2,500 OOD test images.
GOLDEN = {
    "spem": (0.9913, (0.9888, 0.9933)),
    "likelihood": (0.1195, (0.1098, 0.1299)),
    "similarity": (0.9267, (0.9178, 0.9347)),
}
# The same of the first 200 images of each set.
OF_200 = {"spem": 0.997525, "likelihood": 0.149075, "similarity": 0.951875}


def precise(scorer):
    """The same scorer with its flow's networks in float32, in which no machine rounds otherwise."""
    flow = scorer.flow
    flow = flow.replace(density=flow.density.clone(dtype=jnp.float32))
    return dataclasses.replace(scorer, state=scorer.state.replace(flow=flow))


def measure(limit=None):
    """The scorer, its detections of ID and OOD images, and AUROCs by name."""
    scorer = ecood.score.load("fashion_mnist")
    names = ("fashion_mnist", "mnist")
    images = [data.load_images("embedded", name, "test", limit=limit) for name in names]
    found = [scorer.detect(x) for x in images]
    key, likelihood = jax.random.key(0), baselines.likelihood(scorer.flow)
    rows = {
        "spem": [d.score for d in found],
        "likelihood": [scores(likelihood, scorer.flow, key, x) for x in images],
        "similarity": [-d.similarity for d in found],
    }
    return scorer, found, {name: metrics.auroc(*pair) for name, pair in rows.items()}


def test_the_first_images_are_ranked_as_they_always_were():
    scorer, found, measured = measure(limit=200)
    assert measured == pytest.approx(OF_200, abs=1e-3)
    # A few scores of either set, to what another order of sums may change, and bfloat16.
    for name, here, golden in (
        ("fashion_mnist", found[0], [3.0690258, 2.5645285, -1.8340542]),
        ("mnist", found[1], [11.75212, 7.51785, 6.752219]),
    ):
        images = data.load_images("embedded", name, "test", limit=3)
        np.testing.assert_allclose(precise(scorer)(images), golden, atol=5e-3)
        np.testing.assert_allclose(here.score[:3], golden, atol=0.08)


@pytest.mark.slow
def test_the_form_of_0_1_scores_as_it_did():
    """At the lambda and reference that ecood 0.1 shipped: its AUROC, to four digits."""
    scorer = precise(ecood.score.load("fashion_mnist"))
    scale = Reference(
        jnp.array([3.721296548843384, 0.10112404823303223, -0.9821203351020813]),
        jnp.array([1.2309931516647339, 0.185302734375, 0.020602062344551086]),
    )
    state = scorer.state.replace(
        form=OF_0_1, noise_strength=jnp.float32(0.0464158877), reference=scale
    )
    then = dataclasses.replace(scorer, state=state, calibration=None)
    images = (
        data.load_images("embedded", n, "test", limit=200) for n in ("fashion_mnist", "mnist")
    )
    id_scores, ood_scores = map(then, images)
    assert metrics.auroc(id_scores, ood_scores) == pytest.approx(0.98265, abs=5e-5)
    np.testing.assert_allclose(id_scores[:3], [1.6220009, 3.3881736, -1.0785418], atol=5e-3)


@pytest.fixture(scope="module")
def all_images():
    return measure()


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_auroc_stays_within_its_interval(all_images, name):
    golden, (low, high) = GOLDEN[name]
    measured = all_images[2][name]
    assert low <= measured <= high
    assert measured == pytest.approx(golden, abs=0.01)


@pytest.mark.slow
def test_the_shipped_threshold_keeps_its_promise(all_images):
    scorer, _, _ = all_images
    id_images, ood_images = (
        data.load_images("embedded", name, "test") for name in ("fashion_mnist", "mnist")
    )
    limit = scorer.threshold(0.05)  # of 2,000 calibration images, drawn at random
    flagged = float((scorer(id_images) > limit).mean())
    assert flagged < 0.05 + 0.02  # of 2,000 test images
    assert float((scorer(ood_images) > limit).mean()) > 0.8


# Scores of a flat image, a ramp and a blob, of the shipped scorers in float32.
OF_PATTERNS = {
    "cifar10": [19.02453, 12.21759, 11.90819],
    "svhn_cropped": [17.05663, 21.83827, 10.077],
    "mnist": [56.22908, 82.571, 44.63029],
    "fashion_mnist": [28.74176, 16.85194, 14.86163],
}


def test_every_shipped_scorer_is_in_the_table():
    assert set(OF_PATTERNS) == set(ecood.score.shipped())


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_PATTERNS)
def test_shipped_scorers_score_as_they_always_did(name):
    if name in ("cifar10", "svhn_cropped") and not encoders.efficientnet_lite0_installed():
        pytest.skip("the encoder's weights are not installed")
    scorer = ecood.score.load(name)
    shape = scorer.image_shape
    row, column = np.indices(shape[:2])
    blob = np.uint8(255 * np.exp(-((row - 14) ** 2 + (column - 12) ** 2) / 60))
    ramp = np.arange(np.prod(shape)).reshape(shape) // 7 % 256
    patterns = [np.full(shape, 90), ramp, blob[..., None].repeat(shape[2], axis=-1)]
    patterns = np.uint8(patterns)
    np.testing.assert_allclose(precise(scorer)(patterns), OF_PATTERNS[name], rtol=2e-3)
    np.testing.assert_allclose(scorer(patterns), OF_PATTERNS[name], rtol=5e-3)  # in bfloat16
