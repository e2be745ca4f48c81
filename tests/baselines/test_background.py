import jax
import numpy as np
import pytest

from ecood import splits
from ecood.baselines import background
from ecood.errors import InputError
from ecood.train import Fit, TrainConfig
from tests import small


def test_mutation_replaces_the_share_asked_for_by_uniform_values():
    images = np.full((40, 16, 16, 3), 7, np.uint8)
    mutated = background.mutate(jax.random.key(8), images, 0.3)
    changed = mutated[mutated != images]
    assert mutated.dtype == np.uint8 and mutated.shape == images.shape
    assert abs(changed.size / images.size - 0.3 * 255 / 256) < 0.01
    assert abs(changed.mean() - 127.5) < 3 and changed.min() == 0 and changed.max() == 255
    for rate in (0.0, 1.0):
        with pytest.raises(InputError, match="mutation rate"):
            background.mutate(jax.random.key(8), images, rate)


def test_a_background_flow_sees_mutated_images_and_remembers_them_as_they_were(monkeypatch):
    seen = []

    def fit_flow(module, split, config, directory, **options):
        seen.append((split, directory, options))
        return small.gaussian(), Fit({}, 1.0, 25, [])

    monkeypatch.setattr(background, "fit_flow", fit_flow)
    split = splits.draw(small.images(100))
    config = TrainConfig(steps=25, seed=3)
    flow = background.train_background(None, split, 0.2, config, "folder", flip=True)
    (mutated, *rest), *others = seen
    assert not others and rest == ["folder", {"flip": True}]
    for part, original in zip(mutated[:2], split[:2], strict=True):
        assert part.shape == original.shape
        assert np.mean(part != original) == pytest.approx(0.2, abs=0.05)
    np.testing.assert_array_equal(mutated.calibration, split.calibration)
    assert [splits.count_known(part, flow.trained_on) for part in split] == [85, 0, 0]


def test_parts_that_share_images_are_refused():
    split = splits.draw(small.images(100))
    shared = split._replace(held_out=split.train[:5])
    with pytest.raises(InputError, match="5 of the 5 images of the held_out part"):
        background.train_background(None, shared, 0.2, TrainConfig(steps=25))
