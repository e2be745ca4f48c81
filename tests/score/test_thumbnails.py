"""The bank's images are kept as they are, in the scorer's directory."""

import io

import numpy as np
import pytest
from PIL import Image

import ecood.score
from ecood import encoders, weights
from ecood.errors import InputError
from ecood.score import thumbnails
from tests import small


def read(png):
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_lose_nothing(channels):
    images = small.images(5, shape=(8, 12, channels))
    kept = thumbnails.make(images)
    assert len(kept) == 5
    for row, image in enumerate(images):
        np.testing.assert_array_equal(read(kept[row]).reshape(image.shape), image)


def test_large_images_shrink_and_other_channels_become_grey():
    assert read(thumbnails.png(small.images(1, shape=(256, 128, 3))[0])).shape == (64, 32, 3)
    two = np.uint8([[[10, 20], [30, 31]]])
    np.testing.assert_array_equal(read(thumbnails.png(two)), [[15, 30]])


def test_a_scorer_keeps_those_of_its_bank_if_asked(tmp_path):
    split = small.split(60)
    options = {"noise_strength": 0.1}
    parts = small.blank_flow(), encoders.pixels(), split
    scorer = ecood.score.fit(*parts, thumbnails=True, **options)
    scorer.save(tmp_path / "mine")
    loaded = ecood.score.load(tmp_path / "mine")
    assert len(loaded.thumbnails) == len(loaded.state.bank) == len(split.train)
    found = loaded.explain(split.train[:9], neighbours=1)
    for image, row in zip(split.train[:9], found.neighbours[:, 0], strict=True):
        np.testing.assert_array_equal(read(loaded.thumbnails[row]), image)
    assert ecood.score.fit(*parts, **options).thumbnails is None


def test_more_than_a_file_can_count_are_refused(monkeypatch):
    class Long(bytes):
        def __len__(self):
            return 2**31

    monkeypatch.setattr(thumbnails, "png", lambda image: Long(b"png"))
    with pytest.raises(InputError, match="4 GiB of thumbnails; fit without them"):
        thumbnails.make(small.images(2))


@pytest.mark.parametrize("wrong", [{}, {"ends": [4, 3]}, {"ends": [2, 8]}, {"data": [[1] * 9]}])
def test_damaged_thumbnails_are_refused(tmp_path, wrong):
    right = {"data": np.ones(9, np.uint8), "ends": np.uint32([4, 9])}
    weights.save(tmp_path / "t", right)
    assert [len(thumbnails.load(tmp_path / "t")[row]) for row in (0, 1)] == [4, 5]
    wrong = {name: np.asarray(value, right[name].dtype) for name, value in wrong.items()}
    weights.save(tmp_path / "t", right | wrong if wrong else {"data": right["data"]})
    with pytest.raises(InputError, match="holds no thumbnails"):
        thumbnails.load(tmp_path / "t")
