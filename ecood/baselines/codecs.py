"""How simple an image is: the length of the shortest of its lossless files."""

import numpy as np

from ecood.errors import InputError

__all__ = ["CODECS", "code_lengths", "complexity"]

CODECS = ("png", "jpeg2000", "jpegxl")


def code_lengths(images: np.ndarray) -> np.ndarray:
    """The lengths of the lossless files of images, uint8 [N, H, W, C], C = 1 or 3.

    Returns:
      Bits per dimension, float32 [N, 3], in the order of `CODECS`. Headers count: they
      are the same for all images of a size.

    Raises:
      InputError: for other channels, or if imagecodecs is not installed.
    """
    try:
        import imagecodecs
    except ImportError:
        raise InputError(
            "the complexity of an image needs the package imagecodecs, which is not installed; "
            'install it with pip install "ecood[baselines]".'
        ) from None
    if images.shape[-1] not in (1, 3):
        raise InputError(
            f"images has {images.shape[-1]} channels; expected 1 or 3, which PNG, JPEG 2000 and "
            "JPEG XL can hold."
        )

    def lengths(image: np.ndarray) -> tuple[int, int, int]:
        pixels = np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
        return (
            len(imagecodecs.png_encode(pixels, level=9)),
            len(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0)),
            len(imagecodecs.jpegxl_encode(pixels, lossless=True)),
        )

    files = np.array([lengths(image) for image in np.asarray(images)])
    return np.float32(8 * files / np.prod(images.shape[1:]))


def complexity(images: np.ndarray) -> np.ndarray:
    """L(x) = the length of the image's shortest lossless file in bits/dim, float32 [N]."""
    return code_lengths(images).min(axis=1)
