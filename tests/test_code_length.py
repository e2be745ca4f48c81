"""The universal code: an arithmetic coder that adapts as it goes writes the bits that it says."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.baselines.codecs import complexity
from ecood.code_length import (
    CONSTANTS,
    Constants,
    code_length,
    code_length_map,
    pixel_code_lengths,
)
from ecood.data import load_images

TOTAL = 2**30  # what the frequencies of an arithmetic coder's symbols sum to

lengths = jax.jit(pixel_code_lengths)


def order_of_coding(shape):
    """(row, column, channel) of every value, as the code takes them."""
    channels = list(range(shape[2]))
    if len(channels) >= 3:
        channels[:2] = 1, 0
    return [(y, x, c) for y in range(shape[0]) for x in range(shape[1]) for c in channels]


def frequencies(so_far, place):
    """The frequencies of the 256 values at a place, from the pixels before it; none is 0.

    What the decoder does not know yet is noise here: it must not matter.
    """
    candidates = np.repeat(so_far[None], 256, axis=0)
    candidates[:, *place] = np.arange(256)
    probability = 2.0 ** -np.float64(lengths(candidates)[:, *place])
    assert probability.sum() == pytest.approx(1, abs=1e-4)
    return np.maximum(1, np.int64(TOTAL * probability / probability.sum()))


def with_noise_ahead(image, index, rng):
    """The image as a decoder has it after `index` values, noise in the place of the others."""
    known = rng.integers(0, 256, image.shape, np.uint8)
    for place in order_of_coding(image.shape)[:index]:
        known[place] = image[place]
    return known


def encode(image):
    """The image as a binary fraction in an interval of its probability: (numerator, bits)."""
    low, width = fractions.Fraction(0), fractions.Fraction(1)
    rng = np.random.default_rng(0)
    for index, place in enumerate(order_of_coding(image.shape)):
        counts = frequencies(with_noise_ahead(image, index, rng), place).tolist()
        total, value = sum(counts), int(image[place])
        low += width * fractions.Fraction(sum(counts[:value]), total)
        width *= fractions.Fraction(counts[value], total)
    bits = 1
    while 2 * fractions.Fraction(1, 2**bits) > width:
        bits += 1
    return -((-low.numerator * 2**bits) // low.denominator), bits


def decode(number, bits, shape):
    """The image that `encode` wrote."""
    point = fractions.Fraction(number, 2**bits)
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    for place in order_of_coding(shape):
        counts = frequencies(image, place).tolist()
        total = sum(counts)
        target, below, value = point * total, 0, 0
        while below + counts[value] <= target:
            below += counts[value]
            value += 1
        image[place] = value
        point = (target - below) / counts[value]
    return image


def photograph(side, channels):
    """A part of a drawn scene that is smooth in places: uint8 [side, side, channels]."""
    y, x = np.mgrid[:side, :side] / side
    waves = [128 + 90 * np.sin(5 * x + c) * np.cos(3 * y * (1 + c)) for c in range(channels)]
    return np.uint8(np.stack(waves, axis=-1))


@pytest.mark.parametrize(
    "image",
    [
        photograph(6, 3),
        photograph(8, 1),
        np.zeros((7, 7, 1), np.uint8),
        np.random.default_rng(2).integers(0, 256, (4, 5, 2), np.uint8),
        np.random.default_rng(3).integers(250, 256, (2, 4, 5), np.uint8),
    ],
    ids=["colour", "grey", "empty", "noise", "five_channels"],
)
def test_an_adaptive_arithmetic_coder_writes_what_it_says(image):
    number, bits = encode(image)
    np.testing.assert_array_equal(decode(number, bits, image.shape), image)
    assert abs(bits - float(lengths(np.repeat(image[None], 256, axis=0))[0].sum())) < 32


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 3), (5, 1, 2), (2, 2, 4), (2, 4, 5)], ids=str)
def test_probabilities_sum_to_one_for_any_size(shape):
    rng = np.random.default_rng(0)
    places = order_of_coding(shape)
    for place in rng.permutation(places)[:10]:
        frequencies(rng.integers(0, 256, shape, np.uint8), tuple(place))


@pytest.mark.parametrize("seed", range(3))
def test_a_pixel_costs_what_the_pixels_before_it_say(seed):
    rng = np.random.default_rng(seed)
    image = photograph(12, 3)
    index = int(rng.integers(1, image.size))
    places = order_of_coding(image.shape)[: index + 1]
    changed = with_noise_ahead(image, index + 1, rng)
    both = np.asarray(lengths(np.stack([image, changed])))
    for place in places:
        assert both[0][place] == both[1][place]


def test_it_is_shorter_than_the_shortest_lossless_file():
    pytest.importorskip("imagecodecs")
    for name in ("fashion_mnist", "mnist"):
        images = load_images("embedded", name, "test", limit=100)
        assert np.mean(code_length(images)) <= 0.97 * complexity(images).mean()


def test_it_orders_images_by_their_complexity():
    flat = np.full((16, 16, 3), 77, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, flat.shape, np.uint8)
    length = np.asarray(code_length(np.stack([flat, photograph(16, 3), noise])))
    assert length[0] < 0.5 < length[1] < 6 < length[2] == pytest.approx(8 + 10 / 768, abs=1e-3)


def test_it_is_bounded():
    extremes = np.uint8(np.indices((8, 8)).sum(axis=0) % 2 * 255)[None, ..., None]
    assert float(lengths(extremes).max()) <= 18
    noise = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    assert float(lengths(noise).mean()) > 8.5  # the adaptive code alone
    assert float(code_length(noise).max()) <= 8 + 10 / 192 + 1e-5


def test_of_other_images_the_uniform_alternative_takes_next_to_nothing():
    image = np.zeros((1, 4, 4, 1), np.uint8)  # few bits, in which floats are fine
    alone, both = float(lengths(image).mean()), float(code_length(image)[0])
    assert both - alone == pytest.approx(-np.log2(1 - 2**-10) / image.size, abs=1e-6)


@pytest.mark.slow
def test_the_map_adds_up_to_the_length_and_is_the_adaptive_codes_but_for_a_constant():
    images = np.stack([photograph(8, 3), np.random.default_rng(0).integers(0, 256, (8, 8, 3))])
    images = np.uint8(images)
    found = np.asarray(code_length_map(images))
    np.testing.assert_allclose(found.mean(axis=(1, 2)), code_length(images), rtol=1e-6)
    shift = found - np.asarray(lengths(images)).mean(axis=-1)
    np.testing.assert_allclose(shift, shift[:, :1, :1] + np.zeros((8, 8)), atol=5e-5)
    assert abs(shift[0, 0, 0]) < 1e-4 and shift[1, 0, 0] < -0.3


def test_an_images_length_does_not_depend_on_its_batch():
    images = np.stack([photograph(16, 3), np.zeros((16, 16, 3), np.uint8)] * 3)
    alone = np.concatenate([code_length(x[None]) for x in images])
    np.testing.assert_allclose(code_length(images), alone, atol=1e-6)
    mapped = jax.vmap(lambda x: code_length(x[None])[0])(images)
    np.testing.assert_allclose(mapped, alone, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_it_lowers_for_every_platform(platform):
    images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8)
    program = jax.export.export(jax.jit(code_length), platforms=[platform])(images)
    assert "callback" not in program.mlir_module()


def test_it_is_float32_whatever_the_constants_and_x64_are():
    images = photograph(8, 3)[None]
    double = Constants(*(np.float64(v) for v in CONSTANTS))
    with jax.enable_x64(True):
        found = pixel_code_lengths(images, double)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, lengths(images), rtol=1e-4, atol=1e-4)
