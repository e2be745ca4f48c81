import sys

import numpy as np
import pytest

from ecood.errors import InputError
from ecood.train import code


def test_shapes_are_lines_on_an_empty_ground():
    images = np.stack([code.shape(np.random.default_rng(seed)) for seed in range(20)])
    assert images.shape == (20, 32, 32) and images.dtype == np.uint8
    assert 0.5 < np.mean(images == 0) < 0.99 and images.max() == 255


def test_without_scikit_learn_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"scikit-learn.*pip install \"ecood\[baselines\]\""):
        code.photographs(np.random.default_rng(0))


@pytest.mark.slow
def test_fitting_shortens_the_code():
    seen = []
    found = code.fit_constants(12, lambda step, bits: seen.append(bits))
    assert len(seen) == 12 and np.mean(seen[-3:]) < np.mean(seen[:3])
    assert found._fields == code.START._fields
    assert all((np.asarray(each) > 0).all() for each in found)
