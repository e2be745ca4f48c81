import sys
import zlib

import jax
import numpy as np
import pytest

from ecood import baselines
from ecood.baselines.codecs import CODECS, code_lengths, complexity
from ecood.detector import detections
from ecood.errors import InputError
from tests.baselines import tiny


def test_likelihood_less_the_shortest_file_in_bits():
    flow, key = tiny.gaussian(), jax.random.key(4)
    images = np.concatenate([tiny.hard_images(), tiny.images(4)])
    detector = baselines.input_complexity(flow)
    got = detections(detector, detector.fit(key, tiny.split(80)), key, images)
    bits, length = tiny.known_statistics(key, images)[:, 0], code_lengths(images).min(axis=1)
    np.testing.assert_allclose(got.score, bits - length, atol=2e-5)
    np.testing.assert_allclose(got.bits, bits, atol=2e-5)
    np.testing.assert_array_equal(got.code_length, length)


def test_files_are_lossless_and_their_lengths_are_in_bits():
    import imagecodecs

    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    lengths = code_lengths(image)[0]
    png = imagecodecs.png_encode(image[0], level=9)
    np.testing.assert_array_equal(imagecodecs.png_decode(png), image[0])
    assert lengths[CODECS.index("png")] == pytest.approx(8 * len(png) / image.size)
    # No lossless code beats the entropy of uniform noise, 8 bits a value.
    assert np.all(lengths > 8) and np.all(lengths < 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_complexity_orders_images_as_any_compressor_does(channels):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 32, channels))
    ramp = np.broadcast_to(np.arange(0, 256, 8)[:, None, None], noise.shape)
    images = np.stack([0 * noise, ramp, ramp // 2 + noise % 16, noise]).astype(np.uint8)
    got = complexity(images)
    assert got.dtype == np.float32 and np.all(np.diff(got) > 0)
    deflated = [len(zlib.compress(image.tobytes(), 9)) for image in images]
    assert np.all(np.diff(deflated) > 0)


def test_what_codecs_cannot_hold_is_refused():
    with pytest.raises(InputError, match="2 channels; expected 1 or 3"):
        complexity(np.zeros((1, 8, 8, 2), np.uint8))


def test_without_imagecodecs_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(InputError, match=r"imagecodecs.*pip install \"ecood\[baselines\]\""):
        complexity(tiny.images(1))
