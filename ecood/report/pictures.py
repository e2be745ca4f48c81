"""Pictures for a page: images and maps as data URIs."""

import base64

import numpy as np

from ecood.score.thumbnails import png

__all__ = ["BITS", "DIFFERENCE", "bits_picture", "data_uri", "difference_picture"]

BITS = 8.0  # bits/dim at the bright end: what a pixel costs under the uniform density
DIFFERENCE = 4.0  # bits/dim at both ends of the map of differences

# (value in [0, 1], red, green, blue): dark is cheap, bright is dear; and blue to red through grey,
# both monotone or symmetric in lightness, so that they also read without colour vision.
SEQUENTIAL = ((0, 12, 9, 46), (0.35, 104, 24, 110), (0.7, 232, 98, 57), (1, 250, 240, 150))
DIVERGING = ((0, 35, 90, 190), (0.5, 232, 232, 232), (1, 185, 30, 40))


def bits_picture(bits: np.ndarray) -> str:
    """A map of bits/dim, float [H, W], as a picture from 0 to `BITS`."""
    return data_uri(png(_coloured(bits / BITS, SEQUENTIAL)))


def difference_picture(bits: np.ndarray) -> str:
    """A map of differences in bits/dim, float [H, W]: red above 0, blue below."""
    return data_uri(png(_coloured((bits / DIFFERENCE + 1) / 2, DIVERGING)))


def data_uri(png: bytes) -> str:
    """A PNG file as a URI that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _coloured(values: np.ndarray, colours: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """Values [H, W], clipped to [0, 1], as uint8 [H, W, 3]."""
    at, *channels = np.transpose(np.asarray(colours, np.float64))
    values = np.clip(np.nan_to_num(values, nan=1.0), 0, 1)
    return np.stack([np.interp(values, at, c) for c in channels], axis=-1).round().astype(np.uint8)
