"""One image file to pixels, and many of them to one array."""

from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image

from ecood.errors import InputError

__all__ = ["decode", "stack"]

CHANNELS = {
    "1": "L",
    "L": "L",
    "RGB": "RGB",
    "P": "RGB",
}  # the modes whose pixels are exact in 8 bits


def decode(file: BinaryIO, what: str) -> np.ndarray:
    """The pixels of one encoded image.

    Args:
      file: a seekable binary file: PNG, JPEG, WebP or whatever Pillow reads.
      what: the name of the image for the error message.

    Returns:
      uint8 [H, W, 1] for grey and [H, W, 3] for colour images.

    Raises:
      InputError: if the file is damaged, or holds transparency or more than 8 bits a channel,
        which no conversion would keep.
    """
    try:
        with Image.open(file) as image:
            mode = CHANNELS.get(image.mode)
            if mode is None or "transparency" in image.info:
                raise InputError(
                    f"{what} is an image of mode {image.mode}"
                    f"{' with transparency' if mode else ''}; expected 8-bit grey or RGB without "
                    "transparency: convert the images first."
                )
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{what} cannot be decoded ({error}); expected an image file: replace or remove it."
        ) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def stack(images: Iterable[tuple[str, np.ndarray]], count: int) -> np.ndarray:
    """Images of one size as one array.

    Args:
      images: at least `count` pairs of a name and its pixels, uint8 [H, W, C].
      count: how many to take, >= 1.

    Returns:
      uint8 [count, H, W, C].

    Raises:
      InputError: naming the first image whose shape is not that of the first one.
    """
    images = iter(images)
    first_name, first = next(images)
    array = np.empty((count, *first.shape), np.uint8)
    array[0] = first
    for index in range(1, count):
        name, image = next(images)
        if image.shape != first.shape:
            raise InputError(
                f"{name} has shape {list(image.shape)} but {first_name} has {list(first.shape)}; "
                "expected images of one size and channel count: resize or convert them."
            )
        array[index] = image
    return array
