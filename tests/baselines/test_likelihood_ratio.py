import jax
import numpy as np
import pytest

from ecood import baselines
from ecood.detector import detections, scores
from ecood.errors import InputError
from ecood.metrics import auroc
from ecood.splits import as_split
from tests.baselines import tiny

KEY = jax.random.key(8)


def test_difference_of_two_known_densities():
    images = np.concatenate([tiny.images(5), tiny.hard_images()])
    detector = baselines.likelihood_ratio(tiny.gaussian(0.3), tiny.gaussian(0.5, mean=0.2))
    state = detector.fit(KEY, tiny.split(80))
    cost = tiny.known_statistics(KEY, images)[:, 0]
    background = tiny.known_statistics(KEY, images, 0.5, 0.2)[:, 0]
    found = detections(detector, state, KEY, images)
    np.testing.assert_allclose(found.score, cost - background, atol=5e-5)
    np.testing.assert_allclose(found.bits, cost, atol=5e-5)
    np.testing.assert_allclose(found.background_bits, background, atol=5e-5)


def test_the_background_is_chosen_on_id_images_and_their_turned_copies():
    rows = np.linspace(0.2, 0.6, 8).repeat(8)  # a scale for each row: not the same when turned
    columns = rows.reshape(8, 8).T.ravel()
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1200, *tiny.SHAPE)) * rows.reshape(tiny.SHAPE)
    id_images = np.clip(115 + 80 * noise, 0, 255).astype(np.uint8)
    candidates = [tiny.gaussian(0.3), tiny.gaussian(columns), tiny.gaussian(0.35)]
    detector = baselines.likelihood_ratio(tiny.gaussian(rows), *candidates)
    split = as_split(id_images)
    chosen = detector.fit(KEY, split).background.variables["scale"]
    turned = np.rot90(split.held_out, axes=(1, 2))
    separations = []
    for scale in (0.3, columns, 0.35):
        ratio = [
            tiny.known_statistics(KEY, x, rows)[:, 0] - tiny.known_statistics(KEY, x, scale)[:, 0]
            for x in (split.held_out, turned)
        ]
        separations.append(auroc(*ratio))
    assert int(np.argmax(separations)) == 1
    np.testing.assert_allclose(chosen, columns, rtol=1e-6)


def test_no_background_is_refused():
    with pytest.raises(InputError, match="no background flow was given; expected one or more"):
        baselines.likelihood_ratio(tiny.gaussian())


def test_flow_and_background_may_be_of_different_architectures():
    detector = baselines.likelihood_ratio(tiny.gaussian(), tiny.curved())
    state, images = detector.fit(KEY, tiny.split(80)), tiny.images(4)
    one, other = (scores(baselines.likelihood(f), f, KEY, images) for f in state)
    np.testing.assert_allclose(scores(detector, state, KEY, images), one - other, atol=1e-5)
