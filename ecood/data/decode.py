"""One image file to pixels, and many of them to one array."""

import os
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ecood.errors import InputError

__all__ = ["decode", "decode_file", "stack"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
CHANNELS = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}  # whose pixels are exact in 8 bits


def decode(file: BinaryIO, what: str) -> np.ndarray:
    """The pixels of an image file, uint8 [H, W, C], C = 1 (grey) or 3.

    PNG, JPEG, WebP, BMP, PGM and PPM are read, and turned upright as they say (EXIF).
    Raises `InputError` about `what` if the file is damaged, or holds transparency or
    more than 8 bits a channel, which no conversion would keep.
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
    return np.atleast_3d(pixels)


def decode_file(path: str | os.PathLike) -> np.ndarray:
    """`decode` for a path; an `InputError` also if the file cannot be opened."""
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
    """`count` >= 1 images, each with its name, as one array, uint8 [count, H, W, C].

    It is made at once: a list would take as much again. Unequal shapes are refused.
    """
    array = first = None
    for index, (name, image) in zip(range(count), images, strict=True):
        if array is None:
            array, first = np.empty((count, *image.shape), np.uint8), name
        if image.shape != array.shape[1:]:
            raise InputError(
                f"{name} has shape {list(image.shape)} but {first} has {list(array.shape[1:])}; "
                "expected images of one size and channel count: resize or convert them."
            )
        array[index] = image
    return array
