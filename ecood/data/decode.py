"""One image file to pixels, and many of them to one array."""

import os
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ecood.errors import InputError

__all__ = ["decode", "decode_file", "stack"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
CHANNELS = {
    "1": "L",
    "L": "L",
    "RGB": "RGB",
    "P": "RGB",
}  # the modes whose pixels are exact in 8 bits


def decode(file: BinaryIO, what: str) -> np.ndarray:
    """The pixels of one encoded image, turned upright if the file says how (EXIF).

    Args:
      file: a seekable binary file: PNG, JPEG, WebP, BMP, PGM or PPM.
      what: the name of the image for the error message.

    Returns:
      uint8 [H, W, 1] for grey and [H, W, 3] for colour images.

    Raises:
      InputError: if the file is damaged, or holds transparency or more than 8 bits a channel,
        which no conversion would keep.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            mode = CHANNELS.get(image.mode)
            deep, clear = _is_deep(image), "transparency" in image.info
            if mode is None or deep or clear:
                excess = " of 16 bits" if deep else " with transparency"
                raise InputError(
                    f"{what} is an image of mode {image.mode}{excess if mode else ''}; expected "
                    "8-bit grey or RGB without transparency: convert the images first."
                )
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{what} cannot be decoded ({error}); expected an image file: replace or remove it."
        ) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def decode_file(path: str | os.PathLike) -> np.ndarray:
    """`decode` for a path.

    Raises:
      InputError: if the file cannot be opened, or as `decode`.
    """
    try:
        with open(path, "rb") as file:
            return decode(file, str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}).") from error


def _is_deep(image: Image.Image) -> bool:
    """Whether Pillow would cut the file's 16-bit colours to 8 bits without a word."""
    for _, _, _, arguments in image.tile:
        raw, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
        if ";16" in str(raw) or (image.format == "PPM" and rest and rest[0] > 255):
            return True  # rest[0]: the largest value of a colour
    return False


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
