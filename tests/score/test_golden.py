"""The shipped FashionMNIST scorer on the embedded pair: no change may move it unseen."""

import jax
import pytest

import ecood.score
from ecood import data, metrics
from ecood.batches import map_images

# AUROC [95% interval] when the scorer was shipped; 2,000 ID and 2,500 OOD test images.
GOLDEN = {
    "spem": (0.9780, (0.9742, 0.9813)),
    "likelihood": (0.1195, (0.1098, 0.1299)),
    "similarity": (0.9267, (0.9178, 0.9347)),
}


@pytest.fixture(scope="module")
def detections():
    scorer = ecood.score.load("fashion_mnist")
    images = [data.load_images("embedded", name, "test") for name in ("fashion_mnist", "mnist")]
    return scorer, images, [scorer.detect(x) for x in images]


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_auroc_stays_within_its_interval(detections, name):
    scorer, images, found = detections
    if name == "likelihood":
        likelihood = ecood.score.likelihood(scorer.flow)
        key, variables = jax.random.key(0), scorer.flow.variables
        scores = [map_images(likelihood.score, variables, key, images=x) for x in images]
    else:
        scores = [d.score if name == "spem" else -d.similarity for d in found]
    golden, (low, high) = GOLDEN[name]
    measured = metrics.auroc(*scores)
    assert low <= measured <= high
    assert measured == pytest.approx(golden, abs=0.01)


@pytest.mark.slow
def test_the_calibrated_threshold_keeps_its_promise(detections):
    scorer, _, (id_found, ood_found) = detections
    limit = scorer.threshold(0.05)
    flagged = float((id_found.score > limit).mean())
    assert flagged < 0.05 + 0.02  # 2,000 calibration and 2,000 test images
    assert float((ood_found.score > limit).mean()) > 0.8
