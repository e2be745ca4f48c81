"""One image file to pixels, and many of them to one array."""

import os
import warnings
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ecood.errors import InputError

__all__ = ["decode", "decode_file", "stack"]

# How a file of each format begins. Pillow's own `open` does not tell why a reader failed.
READERS = {
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.jpeg_factory,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"\x28\0\0\0": BmpImagePlugin.DibImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
    b"II": TiffImagePlugin.TiffImageFile,
    b"MM": TiffImagePlugin.TiffImageFile,
    b"P": PpmImagePlugin.PpmImageFile,
}
CHANNELS = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}  # whose pixels are exact in 8 bits
CHANNELS |= {"LA": "L", "RGBA": "RGB", "PA": "RGB"}  # if all of them are opaque
MOST_PIXELS = 178_956_970  # where Pillow, too, takes an image for a decompression bomb
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 0x0102  # tags of EXIF and TIFF
TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270")
UPRIGHT = dict(enumerate((*TURNS, "TRANSVERSE", "ROTATE_90"), 2))  # by EXIF's orientation


def decode(file: BinaryIO, what: str) -> np.ndarray:
    """The pixels of an image file, uint8 [H, W, C], C = 1 (grey) or 3.

    PNG, JPEG, WebP, BMP, GIF, TIFF, PGM and PPM are read, of several frames the first, and
    turned upright as they say (EXIF). Metadata that cannot be read turn nothing. Raises
    `InputError` about `what` if the file is damaged, has more than 179 million pixels, or has
    a pixel that is not opaque or more than 8 bits a channel, which no conversion would keep.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is in the pixels or an exception
            return _decode(file, what)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{what} does not fit into memory; resize it first.") from error
    except Exception as error:  # decoders raise many types for damaged files
        told = isinstance(error, OSError | SyntaxError | ValueError)
        reason = str(error) if told else "a part of it is missing or damaged"
        raise InputError(
            f"{what} cannot be decoded ({reason}); expected an image file: replace or remove it."
        ) from error


def _decode(file: BinaryIO, what: str) -> np.ndarray:
    start = file.read(16)
    file.seek(0)
    if not start:
        raise ValueError("it is empty")
    reader = next((r for prefix, r in READERS.items() if start.startswith(prefix)), None)
    if reader is None:
        raise ValueError("it is none of PNG, JPEG, WebP, BMP, GIF, TIFF, PGM and PPM")
    with reader(file, "") as image:
        if image.width * image.height > MOST_PIXELS:
            raise InputError(
                f"{what} has {image.width} x {image.height} pixels; expected at most "
                f"{MOST_PIXELS:,}: resize it first."
            )
        mode, excess = CHANNELS.get(image.mode), " of 16 bits" if _is_deep(image) else ""
        if mode is not None and not excess:
            image.load()
            excess = " with transparent pixels" if _is_clear(image) else ""
        if mode is None or excess:
            raise InputError(
                f"{what} is an image of mode {image.mode}{excess if mode else ''}; expected "
                "8-bit grey or RGB without transparency: convert the images first."
            )
        pixels = image if image.mode == mode else image.convert(mode)
        if turn := UPRIGHT.get(_orientation(image)):
            pixels = pixels.transpose(Image.Transpose[turn])
        shape = pixels.height, pixels.width, -1
        return np.frombuffer(pixels.tobytes(), np.uint8).reshape(shape)  # asarray takes longer


def _orientation(image: Image.Image) -> int | None:
    try:
        return int(image.getexif()[ORIENTATION])
    except Exception:  # of damaged or missing metadata, of any type
        return None


def decode_file(path: str | os.PathLike) -> np.ndarray:
    """`decode` for a path; an `InputError` also if the file cannot be opened."""
    try:
        with open(path, "rb") as file:
            return decode(file, str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}).") from error


def _is_clear(image: Image.Image) -> bool:
    """Whether a pixel is not opaque; many programs write an alpha channel that says nothing."""
    if not image.has_transparency_data:
        return False
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    return least < 255


def _is_deep(image: Image.Image) -> bool:
    """Whether Pillow would cut the file's 16-bit colours to 8 bits without a word."""
    for _, _, _, arguments in image.tile:
        raw, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
        if image.format in ("BMP", "DIB"):  # "BGR;16" has 5, 6 and 5 bits
            return False
        if ";16" in str(raw) or (image.format == "PPM" and rest and rest[0] > 255):
            return True  # rest[0]: the largest value of a colour
    tags = getattr(image, "tag_v2", {})  # a TIFF's planes are read as if they had 8 bits each
    return np.max(tags.get(BITS_PER_SAMPLE, 1)) > 8


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
