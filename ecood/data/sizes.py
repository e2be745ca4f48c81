"""Images of one size and channel count, made of others."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from ecood.data.arrays import check_channels, check_stored
from ecood.errors import InputError, check_whole

__all__ = ["averaged_down", "conform", "is_grey", "resize"]


def conform(image: np.ndarray, shape: tuple[int, int, int], resize: bool, what: str) -> np.ndarray:
    """An image, uint8 [H, W, C], in a model's shape; untouched if it has it.

    Where grey is asked for, one of three equal channels is as good. With `resize`, grey
    becomes RGB by repetition and RGB grey by ITU-R 601 luma, and the whole image is
    resized, its aspect ratio not kept, by Pillow's bilinear filter, which averages over
    all pixels when it shrinks. Else `what` is refused with an `InputError`.
    """
    if shape[-1] == 1 < image.shape[-1] and is_grey(image):
        image = image[..., :1]
    if image.shape == tuple(shape):
        return image
    if not resize:
        raise InputError(
            f"{what} has shape {list(image.shape)}, and the model takes {list(shape)}; resize and "
            "convert it as the in-distribution images were (--resize states a rule and does it)."
        )
    height, width, channels = shape
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(shape)


def is_grey(image: np.ndarray) -> bool:
    """Whether all channels of an image [H, W, C] are equal."""
    return bool((image == image[..., :1]).all())


def resize(images: Iterable[np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    """Images of any sizes, uint8 [H, W, C] each, as one array [N, *shape].

    As `--resize` at the command line: the whole image is stretched, nothing is cropped
    (`ecood.data.sizes.conform`). Raises `InputError` for what is no such image or shape.
    """
    given, shape = shape, tuple(shape) if np.iterable(shape) else ()
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise InputError(f"shape is {given!r}; expected (H, W, C), C 1 or 3.")
    for name, length in zip("HWC", shape, strict=True):
        check_whole(f"{name} of shape", length)
    if not np.iterable(images):
        raise InputError(f"images is {images!r}; expected several images, uint8 [H, W, C] each.")
    each = (_image(image, f"image {i}") for i, image in enumerate(images))
    resized = [conform(image, shape, True, "") for image in each]
    if not resized:
        raise InputError("there are no images to resize; expected at least one.")
    return np.stack(resized)


def averaged_down(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle squares of images, uint8 [N, H, W, C], averaged down to `size`, (H', W')."""
    side = min(images.shape[1:3])
    top, left = ((length - side) // 2 for length in images.shape[1:3])
    squares = images[:, top : top + side, left : left + side]
    pictures = (Image.fromarray(square.squeeze()) for square in squares)
    small = [each.resize(size[::-1], Image.Resampling.BOX) for each in pictures]
    return np.stack(small).reshape(-1, *size, images.shape[-1])


def _image(image: np.ndarray, what: str) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3:
        raise InputError(f"{what} has shape {list(image.shape)}; expected uint8 [H, W, C].")
    check_channels(image.shape, what)
    return check_stored(image[None], f"{what},")[0]
