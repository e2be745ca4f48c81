"""Which pairs the benchmark has, their images, and which of them a scorer was made from."""

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ecood import data, splits
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.score import Scorer
from ecood.splits import Split

__all__ = ["OOD_OF", "IDSet", "Missing", "fresh", "load_all", "load_ood", "of_id", "split_of"]

# The paper's pairs, both ways where both make sense, and two near-OOD ones for CIFAR-10.
OOD_OF = {
    "cifar10": ("svhn_cropped", "imagenet32", "celeb_a", "cifar100"),
    "cifar100": ("svhn_cropped", "celeb_a", "cifar10"),
    "svhn_cropped": ("cifar10", "imagenet32", "cifar100", "celeb_a"),
    "celeb_a": ("cifar10", "cifar100", "svhn_cropped"),
    "fashion_mnist": ("mnist",),
    "mnist": ("fashion_mnist",),
}
SHIPPED_FROM = {"fashion_mnist": "embedded"}  # the shipped scorer's own images, always at hand


class IDSet(NamedTuple):
    """An ID set that is at hand, and what is run against it.

    Attributes:
      name: of the set.
      scorer: its scorer.
      split: the ID training images, in the parts that the scorer was made from.
      tests: test images by set, the ID set's own first: uint8 [N, H, W, C] each.
      notes: what a reader must know of the images, a sentence each.
    """

    name: str
    scorer: Scorer
    split: Split
    tests: Mapping[str, np.ndarray]
    notes: Sequence[str] = ()

    @property
    def oods(self) -> list[str]:
        """The OOD sets."""
        return list(self.tests)[1:]


class Missing(NamedTuple):
    """A pair that could not be run, and why."""

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
    """Of the ID sets `names`, those that have a pair at hand; and the pairs that are missing.

    At most `limit` test images of each set are loaded. `load_scorer` gives the scorer of an ID set,
    or refuses; `own` are the sets for which it is not the shipped one.

    Raises:
      InputError: if no pair is at hand.
    """
    found, missing = [], []
    for name in names:
        tests, notes, oods = {}, [], OOD_OF[name]
        try:
            train_source = source if name in own else SHIPPED_FROM.get(name, source)
            train = data.load_images(train_source, name, "train")
            scorer = load_scorer(name)
            split = split_of(train, scorer.flow, scorer.encoder, scorer.fitted_on, notes)
            images = data.load_images(source, name, "test", limit=limit)
            tests[name] = fresh(images, scorer, name, notes)
        except InputError as error:
            missing += [Missing(name, ood, str(error)) for ood in oods]
            continue
        for ood in oods:
            try:
                images = load_ood(source, imagenet32, ood, train.shape[1:], limit)
                tests[ood] = fresh(images, scorer, ood, notes)
            except InputError as error:
                missing.append(Missing(name, ood, str(error)))
        if len(tests) > 1:
            found.append(IDSet(name, scorer, split, tests, notes))
    if not found:
        reasons = "; ".join(f"{m.id} against {m.ood}: {m.reason}" for m in missing)
        raise InputError(f"no pair can be run: {reasons}")
    return found, missing


def split_of(
    images: np.ndarray,
    flow: Flow,
    encoder: Encoder,
    fitted_on: np.ndarray | None,
    notes: list[str],
) -> Split:
    """ID training images in parts as a detector was made from, told by their content.

    Nothing is held out that flow or encoder remember; of a scorer that knows what it was fitted on,
    all other images are left out. The calibration part is empty. Where the flow does not know its
    images, the notes say so.

    Raises:
      InputError: if the scorer was fitted to other images, or none is left to hold out.
    """
    if fitted_on is not None:
        images = images[splits.is_known(images, fitted_on)]
        if not len(images):
            raise InputError("the scorer was fitted to other images; give those, or fit it anew.")
    if flow.trained_on is None:
        notes.append(
            "Which ID images the flow was trained on is not known: those that settings and scales "
            "are taken from are drawn at random, and some may be among them."
        )
    return splits.as_split(images, flow, encoder)


def fresh(images: np.ndarray, scorer: Scorer, name: str, notes: list[str]) -> np.ndarray:
    """The test images, uint8 [N, H, W, C], that the scorer was not made from; notes the others.

    Raises:
      InputError: if none is left.
    """
    used = scorer.flow.trained_on, scorer.encoder.trained_on, scorer.fitted_on
    new, count = splits.new_images(images, *used), len(images)
    if not len(new):
        raise InputError(
            f"the scorer was made from all {count} test images of {name}; give others."
        )
    if dropped := count - len(new):
        notes.append(f"{dropped} test images of {name}, which the scorer knew, were dropped.")
    return new


def load_ood(
    source: str, imagenet32: str | None, name: str, shape: tuple[int, int, int], limit: int | None
) -> np.ndarray:
    """At most `limit` OOD test images, the middle square averaged down to the ID images' shape.

    Raises:
      InputError: if there are none, or they cannot take that shape.
    """
    if name == "imagenet32" and imagenet32 is None:
        raise InputError("no 32x32 ImageNet crops were given; name their file: --imagenet32.")
    source = imagenet32 if name == "imagenet32" else source
    images = data.load_images(source, name, "test", limit=limit)
    if images.shape[-1] != shape[-1]:
        raise InputError(
            f"{name} has {images.shape[-1]} channels; expected {shape[-1]}, as the ID images have."
        )
    if images.shape[1:] == shape:
        return images
    side = min(images.shape[1:3])
    top, left = ((length - side) // 2 for length in images.shape[1:3])
    squares = (
        Image.fromarray(x.squeeze()) for x in images[:, top : top + side, left : left + side]
    )
    small = [square.resize((shape[1], shape[0]), Image.Resampling.BOX) for square in squares]
    return np.stack(small).reshape(-1, *shape)


def of_id(word: str) -> tuple[str, str]:
    """A command line's word ID=VALUE, as the `type` of an option."""
    name, equals, value = word.partition("=")
    if not equals or name not in OOD_OF:
        wanted = ", ".join(OOD_OF)
        raise argparse.ArgumentTypeError(f"{word!r}; expected ID=VALUE with ID one of {wanted}")
    return name, value
