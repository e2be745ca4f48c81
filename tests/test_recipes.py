import jax
import numpy as np
import pytest

from ecood import recipes
from ecood.errors import InputError


@pytest.mark.parametrize(
    ("sides", "expected"), [((32, 32), 3), ((28, 28), 2), ((8, 6), 1), ((64, 48), 3), ((36, 8), 2)]
)
def test_levels_are_as_many_as_the_sides_allow(sides, expected):
    assert recipes.levels((*sides, 3)) == expected


@pytest.mark.parametrize("sides", [(27, 32), (32, 9)])
def test_odd_sides_are_refused(sides):
    with pytest.raises(InputError, match="flows need even sides"):
        recipes.levels((*sides, 3))


@pytest.mark.parametrize(
    ("count", "devices", "expected"), [(1000, 1, 64), (40, 1, 38), (40, 8, 32)]
)
def test_a_batch_is_no_larger_than_the_training_set_and_devices_share_it(
    monkeypatch, count, devices, expected
):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert recipes.batch_size(np.zeros((count, 2, 2, 1), np.uint8), 64) == expected
