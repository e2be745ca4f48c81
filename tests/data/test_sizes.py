import numpy as np
import pytest
from PIL import Image

import ecood.data
from ecood.data import sizes
from ecood.errors import InputError
from tests.data.image_files import random_images


def test_an_image_that_fits_is_not_touched():
    image = random_images(0, 1)[0]
    assert sizes.conform(image, image.shape, True, "x") is image
    with pytest.raises(InputError, match=r"x has shape \[5, 4, 3\], and the model takes \[8, 8, 3"):
        sizes.conform(image, (8, 8, 3), False, "x")


def test_three_equal_channels_are_grey_where_grey_is_asked_for():
    grey = random_images(0, 1, (5, 4, 1))[0]
    rgb = grey.repeat(3, axis=-1)
    np.testing.assert_array_equal(sizes.conform(rgb, (5, 4, 1), False, "x"), grey)
    assert sizes.conform(rgb, (5, 4, 3), False, "x") is rgb
    np.testing.assert_array_equal(
        sizes.conform(rgb, (8, 8, 1), True, "x"), sizes.conform(grey, (8, 8, 1), True, "x")
    )
    rgb[0, 0, 2] ^= 1
    with pytest.raises(InputError, match=r"x has shape \[5, 4, 3\], and the model takes \[5, 4, 1"):
        sizes.conform(rgb, (5, 4, 1), False, "x")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(4, 6), (16, 12), (10, 10)])
def test_the_rule_of_conversion(channels, size):
    image = random_images(0, 1, (12, 9, 3 if channels == 1 else 1))[0]
    out = sizes.conform(image, (*size, channels), True, "x")
    assert out.shape == (*size, channels) and out.dtype == np.uint8
    same_size = Image.fromarray(image.squeeze()).convert("L" if channels == 1 else "RGB")
    expected = same_size.resize(size[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(out, np.asarray(expected).reshape(out.shape))
    assert abs(out.mean() - np.asarray(same_size).mean()) < 12  # all pixels count


def test_images_of_any_size_are_resized_as_at_the_command_line():
    images = [random_images(0, 1, (9, 5, 3))[0], random_images(1, 1, (4, 4, 1))[0]]
    found = ecood.data.resize(images, (8, 6, 3))
    expected = [sizes.conform(image, (8, 6, 3), True, "x") for image in images]
    np.testing.assert_array_equal(found, expected)
    for wrong in ([], [None], [images[0] / 255], [images[1][..., 0]], images[0]):
        with pytest.raises(InputError):
            ecood.data.resize(wrong, (8, 6, 3))
    for shape, words in (
        ((4, 4, 4), r"image 1 has shape \[4, 4, 4\]; .* alpha, with image\[..., :3\]"),
        ((3, 8, 8), r"image 1 has shape \[3, 8, 8\]; .* with image.transpose\(1, 2, 0\)"),
    ):
        with pytest.raises(InputError, match=words):
            ecood.data.resize([images[0], np.zeros(shape, np.uint8)], (8, 6, 3))
    for shape in ((8, 6), (8, 6, 2), 8, None):
        with pytest.raises(InputError, match=r"shape is .*; expected \(H, W, C\), C 1 or 3"):
            ecood.data.resize(images, shape)
    for side in (0, 8.0, True):
        with pytest.raises(InputError, match="W of shape is .*; expected a whole number"):
            ecood.data.resize(images, (8, side, 3))
