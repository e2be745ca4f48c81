import sys

import jax
import numpy as np
import pytest

from ecood import encoders, memory
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.splits import remember


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (70, 12, 12, 1), np.uint8)


@pytest.fixture(scope="module")
def remembered(images):
    return encoders.remembered(encoders.pixels(), np.concatenate([images, images[:5]]))


def test_it_says_what_the_encoder_said_in_any_order_and_batch(images, remembered):
    picks = np.random.default_rng(1).permutation(len(images))[:33]
    said = jax.jit(Encoder.embed)(remembered, images[picks])
    expected = encoders.pixels().embed(images[picks])
    np.testing.assert_allclose(said, expected, rtol=1e-6)
    assert remembered.name == "pixels" and len(remembered.trained_on) == 0
    known = encoders.pixels().replace(trained_on=remember(images[:3]))
    again = encoders.remembered(known, images)
    np.testing.assert_array_equal(again.trained_on, known.trained_on)


def test_two_images_with_the_same_first_word_are_told_apart(images, remembered, monkeypatch):
    file = sys.modules["ecood.encoders.remembered"]
    real = file.content_hash
    monkeypatch.setattr(file, "content_hash", lambda images: real(images).at[:, 0].set(7))
    crowded = encoders.remembered(encoders.pixels(), images)
    assert crowded.variables.widest == len(images)
    said = crowded.embed(images)
    np.testing.assert_allclose(said, encoders.pixels().embed(images), rtol=1e-6)


def test_an_image_that_is_not_remembered_is_refused(images, remembered):
    strange = images.copy()
    strange[3, 0, 0, 0] ^= 1
    said = np.asarray(remembered.embed(strange))
    assert np.isnan(said[3]).all() and np.isfinite(np.delete(said, 3, axis=0)).all()
    with pytest.raises(InputError, match="NaN or infinite for 1 of 70 images"):
        memory.build(remembered, strange)
