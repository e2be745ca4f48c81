"""The shipped scorers on the embedded pair: no change may move them unseen."""

import jax
import numpy as np
import pytest

import ecood.score
from ecood import baselines, data, encoders, metrics
from ecood.detector import scores

# AUROC [95% interval] when the scorer was shipped; 2,000 ID and 2,500 OOD test images.
GOLDEN = {
    "spem": (0.9780, (0.9742, 0.9813)),
    "likelihood": (0.1195, (0.1098, 0.1299)),
    "similarity": (0.9267, (0.9178, 0.9347)),
}
# The same of the first 200 images of each set, as ecood 0.1 had it.
OF_200 = {"spem": 0.98265, "likelihood": 0.149075, "similarity": 0.951875}


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
    # A few scores of either set, to what another order of sums may change.
    np.testing.assert_allclose(found[0].score[:3], [1.6220009, 3.3881736, -1.0785418], atol=5e-3)
    np.testing.assert_allclose(found[1].score[:3], [16.486595, 5.9320793, 4.07948], atol=5e-3)


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


# Scores of a flat image, a ramp and a blob, as ecood 0.1 had them.
OF_PATTERNS = {
    "cifar10": [9.651897, 5.728222, 7.229536],
    "svhn_cropped": [9.774283, 7.214991, 7.370922],
    "mnist": [24.610018, 52.007263, 20.255646],
    "fashion_mnist": [15.018954, 4.098654, 9.576866],
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
    np.testing.assert_allclose(scorer(np.uint8(patterns)), OF_PATTERNS[name], rtol=2e-3)
