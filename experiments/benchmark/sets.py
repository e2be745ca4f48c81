"""Which pairs the benchmark has, and their images."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ecood import data
from ecood.errors import InputError
from ecood.images import hold_out
from ecood.score import Scorer, turned

__all__ = ["OOD_OF", "IDSet", "Missing", "by_id", "load_all", "load_ood", "load_test"]

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


class IDSet(NamedTuple):
    """An ID set that is at hand, and what is run against it.

    Attributes:
      name: of the set.
      scorer: its scorer.
      train: uint8 [N, H, W, C], the training images, as the scorer was trained on them.
      tests: test images by set, the ID set's own first: uint8 [N, H, W, C] each.
    """

    name: str
    scorer: Scorer
    train: np.ndarray
    tests: Mapping[str, np.ndarray]

    @property
    def held_out(self) -> np.ndarray:
        """The training images that nothing was trained on."""
        return hold_out(self.train)[1]

    @property
    def everything(self) -> np.ndarray:
        """All images that a detector may ask an encoder about."""
        return np.concatenate([self.train, turned(self.held_out), *self.tests.values()])

    @property
    def oods(self) -> list[str]:
        """The OOD sets."""
        return list(self.tests)[1:]


class Missing(NamedTuple):
    """A pair that could not be run."""

    id: str
    ood: str
    reason: str


def load_all(
    source: str,
    imagenet32: str | None,
    names: Iterable[str],
    limit: int | None,
    load_scorer: Callable[[str], Scorer],
    own: Collection[str] = (),
) -> tuple[list[IDSet], list[Missing]]:
    """The ID sets that have a pair at hand, and the pairs that are missing.

    Args:
      source: where the images are.
      imagenet32: an .npz file with 32x32 ImageNet crops, if there is one.
      names: of the ID sets.
      limit: test images of each set at most.
      load_scorer: the scorer of an ID set, or a refusal.
      own: ID sets whose scorer is not the shipped one, but made from all training images.

    Raises:
      InputError: if no pair is at hand.
    """
    found, missing = [], []
    for name in names:
        shipped_from = None if name in own else SHIPPED_FROM.get(name)
        train_source, train_limit = shipped_from or (None, None)
        try:
            train = data.load_images(train_source or source, name, "train", limit=train_limit)
            tests = {name: load_test(source, name, limit)}
            scorer = load_scorer(name)
        except InputError as error:
            missing += [Missing(name, ood, str(error)) for ood in OOD_OF[name]]
            continue
        for ood in OOD_OF[name]:
            try:
                tests[ood] = load_ood(source, imagenet32, ood, train.shape[1:], limit)
            except InputError as error:
                missing.append(Missing(name, ood, str(error)))
        if len(tests) > 1:
            found.append(IDSet(name, scorer, train, tests))
    if not found:
        reasons = "; ".join(f"{m.id} against {m.ood}: {m.reason}" for m in missing)
        raise InputError(f"no pair can be run: {reasons}")
    return found, missing


def by_id(option: str, words: Sequence[str]) -> list[tuple[str, str]]:
    """The words ID=VALUE of a command line's option, as pairs."""
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or name not in OOD_OF:
            raise InputError(
                f"{option} is {word!r}; expected ID=VALUE with ID one of {', '.join(OOD_OF)}."
            )
    return [tuple(word.split("=", 1)) for word in words]


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


def _fit(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The middle square, averaged down to the shape."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side].squeeze()
    small = Image.fromarray(square).resize((shape[1], shape[0]), Image.Resampling.BOX)
    return np.asarray(small).reshape(shape)
