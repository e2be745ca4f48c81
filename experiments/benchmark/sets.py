"""Which pairs the benchmark has, and their images."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ecood import data
from ecood.errors import InputError

__all__ = ["OOD_OF", "Images", "Missing", "load_id", "load_ood", "load_test", "load_tests"]

# The paper's pairs, both ways where both make sense, and two near-OOD ones for CIFAR-10.
OOD_OF = {
    "cifar10": ("svhn_cropped", "imagenet32", "celeb_a", "cifar100"),
    "cifar100": ("svhn_cropped", "celeb_a", "cifar10"),
    "svhn_cropped": ("cifar10", "imagenet32", "cifar100", "celeb_a"),
    "celeb_a": ("cifar10", "cifar100", "svhn_cropped"),
    "fashion_mnist": ("mnist",),
    "mnist": ("fashion_mnist",),
}
# What the shipped scorer of an ID set was trained on, where it is not the whole of `--data`.
SHIPPED_FROM = {"fashion_mnist": ("embedded", None), "mnist": (None, 10_000)}


class Images(NamedTuple):
    """The images of one ID set: uint8 [N, H, W, C] each."""

    train: np.ndarray
    test: np.ndarray


class Missing(NamedTuple):
    """A pair that could not be run."""

    id: str
    ood: str
    reason: str


def load_id(source: str, name: str, limit: int | None) -> Images:
    """ID training images, as its scorer was trained on them, and at most `limit` test images."""
    train_source, train_limit = SHIPPED_FROM.get(name, (None, None))
    return Images(
        data.load_images(train_source or source, name, "train", limit=train_limit),
        load_test(source, name, limit),
    )


def load_test(source: str, name: str, limit: int | None) -> np.ndarray:
    """At most `limit` ID test images, uint8 [N, H, W, C].

    Raises:
      InputError: if there are none, or the scorer's flow may have been trained on them.
    """
    if source == "embedded" and name == "mnist":
        raise InputError(
            "the embedded MNIST images are from the training set of the shipped MNIST flow; give "
            "a TFDS directory to test it."
        )
    return data.load_images(source, name, "test", limit=limit)


def load_ood(
    source: str, imagenet32: str | None, name: str, shape: tuple[int, int, int], limit: int | None
) -> np.ndarray:
    """At most `limit` OOD test images, cropped and resized to the ID images' shape.

    Raises:
      InputError: if there are none, or they cannot take that shape.
    """
    if name == "imagenet32":
        if imagenet32 is None:
            raise InputError("no 32x32 ImageNet crops were given; name their file: --imagenet32.")
        source = imagenet32
    images = data.load_images(source, name, "test", limit=limit)
    if images.shape[-1] != shape[-1]:
        raise InputError(
            f"{name} has {images.shape[-1]} channels; expected {shape[-1]}, as the ID images have."
        )
    if images.shape[1:3] == shape[:2]:
        return images
    return np.stack([_fit(image, shape) for image in images])


def load_tests(
    source: str, imagenet32: str | None, name: str, id_test: np.ndarray, limit: int | None
) -> tuple[dict[str, np.ndarray], list[Missing]]:
    """The test images of an ID set's pairs by set, its own first, and the pairs that have none."""
    tests, missing = {name: id_test}, []
    for ood in OOD_OF[name]:
        try:
            tests[ood] = load_ood(source, imagenet32, ood, id_test.shape[1:], limit)
        except InputError as error:
            missing.append(Missing(name, ood, str(error)))
    return tests, missing


def _fit(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The middle square, averaged down to the shape."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side].squeeze()
    small = Image.fromarray(square).resize((shape[1], shape[0]), Image.Resampling.BOX)
    return np.asarray(small).reshape(shape)
