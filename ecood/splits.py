"""The parts of the in-distribution (ID) images: to train on, to choose on, to trust.

A `Split` has three parts that share no image. A statistic that is taken on images that
the flow was trained on is off, and a false-positive rate that is promised on them is
broken. So images are told apart by their content: a model remembers the fingerprints of
the images that it was trained on, a scorer those of all its parts, and what overlaps is
refused before anything is computed.

Everywhere here images are uint8 [N, H, W, C], and fingerprints of used ones are uint32
[M, 2], as `remember` returns them.
"""

import hashlib
import itertools
from typing import Any, NamedTuple

import numpy as np

from ecood import keys
from ecood.errors import InputError, check_share
from ecood.images import check_images
from ecood.words import number_of

__all__ = [
    "Split",
    "as_split",
    "check_new",
    "check_split",
    "count_known",
    "distinct",
    "draw",
    "fingerprints",
    "held_out_of",
    "is_known",
    "new_images",
    "remember",
    "used_by",
]

HELD_OUT = 1 / 20
CALIBRATION, MOST_CALIBRATION = 1 / 10, 2000
AT_LEAST = 3  # held-out images, for a mean and a covariance of two statistics


class Split(NamedTuple):
    """ID images in three parts that share none.

    Attributes:
      train: what flow, encoder and memory bank are made from.
      held_out: for early stopping, settings and the scales of statistics.
      calibration: for thresholds and p-values alone; it may be empty, for none.
    """

    train: np.ndarray
    held_out: np.ndarray
    calibration: np.ndarray


def draw(
    images: Any,
    *,
    seed: int = 0,
    held_out: float = HELD_OUT,
    calibration: float = CALIBRATION,
    used: np.ndarray | None = None,
) -> Split:
    """Draws the parts at random, each in the order of `images`. Copies of an image count as one.

    Args:
      images: the ID images.
      seed: the same images and seed give the same parts.
      held_out: the share of images to hold out of training.
      calibration: the share to calibrate on, 2,000 images at most; 0 for none.
      used: fingerprints of images that a model was trained on, such as `Flow.trained_on`: these
        can only be in `train`. Where the others are too few for both shares, they are divided in
        the same proportion.

    Raises:
      InputError: for what are no images, shares that leave nothing to train on, or so few images
        that a part which was asked for would be empty.
    """
    images = check_images(images)
    held_out = check_share("held_out", held_out, "a share of the images, between 0 and 1")
    expected = "a share of the images, 0 or more, below 1"
    calibration = check_share("calibration", calibration, expected, none=True)
    if held_out + calibration >= 1:
        raise InputError(
            f"held_out is {held_out} and calibration is {calibration}; expected shares of the "
            "images that leave some to train on."
        )
    known = fingerprints(images)
    order = np.random.default_rng(keys.check_seed(seed)).permutation(_firsts(known))
    new = order if used is None else order[~_among(known[order], _as_uint64(used))]
    kept = min(_whole(calibration * len(order)), MOST_CALIBRATION)
    out = _whole(held_out * len(order))
    if kept + out > len(new):
        kept = _whole(len(new) * calibration / (calibration + held_out))
        out = len(new) - kept
    if out == 0 or kept == 0 < calibration:
        least = round(1 / min(held_out, calibration or held_out))
        trained = "" if used is None else f", {len(order) - len(new)} of them used in training,"
        raise InputError(
            f"{number_of(len(order), 'distinct image was', 'distinct images were')} given{trained} "
            f"and one in {least} is set apart; give at least {least} that nothing was trained on."
        )
    apart = new[: kept + out]
    parts = (np.setdiff1d(order, apart), np.sort(apart[kept:]), np.sort(apart[:kept]))
    return Split(*(images[part] for part in parts))


def as_split(images: Any, *models: Any) -> Split:
    """A `Split`, checked, or of an array what `draw` makes of it, without calibration.

    `models` are flows and encoders. Of an array no image that one of them remembers is
    held out. Errors are those of `draw` and `check_split`.
    """
    if not isinstance(images, Split):
        return draw(images, calibration=0.0, used=used_by(*models))
    return check_split(images, *models)


def used_by(*models: Any) -> np.ndarray | None:
    """The fingerprints of all images that these models remember; None if none of them does."""
    known = [np.asarray(model.trained_on) for model in models if model.trained_on is not None]
    return np.concatenate(known) if known else None


def check_split(split: Any, *models: Any) -> Split:
    """Refuses what is no `Split`, an empty part, or parts that share images.

    And one that holds out or calibrates on images that a model, a flow or an encoder, remembers.
    """
    if not isinstance(split, Split):
        raise InputError(
            f"a {type(split).__name__} was given where a Split is expected; make one of your "
            "in-distribution images by ecood.splits.draw(images)."
        )
    train = check_images(split.train)
    held_out = check_images(split.held_out, train.shape[1:])
    calibration = np.asarray(train[:0] if split.calibration is None else split.calibration)
    if len(calibration):
        check_images(calibration, train.shape[1:])
    checked = Split(train, held_out, calibration)
    known = {name: fingerprints(part) for name, part in checked._asdict().items()}
    for a, b in itertools.combinations(known, 2):
        if shared := int(_among(known[b], known[a]).sum()):
            raise InputError(
                f"the {b} part shares {number_of(shared, 'image')} of {len(known[b]):,} with the "
                f"{a} part, so what is measured on it says nothing about new images; draw the "
                "parts by ecood.splits.draw, which tells copies by their content."
            )
    for model, part in itertools.product(models, (checked.held_out, checked.calibration)):
        check_new(part, model.trained_on, f"to train the {type(model).__name__.lower()}")
    return checked


def held_out_of(split: Split, *models: Any) -> np.ndarray:
    """The held-out ID images to take statistics from, of a split that `check_split` takes.

    An InputError if under three.
    """
    images = check_split(split, *models).held_out
    if len(images) < AT_LEAST:
        raise InputError(
            f"the split holds out {number_of(len(images), 'image')}; expected at least {AT_LEAST} "
            f"to take statistics from: give {20 * AT_LEAST} in-distribution images or more."
        )
    return images


def fingerprints(images: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each image's pixels, uint64 [N].

    An image is wrongly found among N others with probability N 2^-64.
    """
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def distinct(images: np.ndarray) -> np.ndarray:
    """The places of the images without the copies of those before them, ascending."""
    return _firsts(fingerprints(images))


def remember(images: np.ndarray) -> np.ndarray:
    """The images' fingerprints as models keep them: ascending, each once, uint32 [M, 2].

    In 32-bit words, since JAX has no 64-bit integers by default.
    """
    distinct = np.unique(fingerprints(images))
    return np.ascontiguousarray(distinct).view(np.uint32).reshape(-1, 2)


def is_known(images: np.ndarray, remembered: np.ndarray | None) -> np.ndarray:
    """Which of the images are among those remembered, bool [N]; None remembers nothing."""
    if remembered is None:
        return np.zeros(len(images), bool)
    return _among(fingerprints(images), _as_uint64(remembered))


def count_known(images: np.ndarray, remembered: np.ndarray | None) -> int:
    """How many of the images are among those remembered."""
    return int(is_known(images, remembered).sum())


def new_images(images: np.ndarray, *remembered: np.ndarray | None) -> np.ndarray:
    """The images that are among none of those remembered; None remembers nothing."""
    new = np.ones(len(images), bool)
    for each in remembered:
        new &= ~is_known(images, each)
    return images[new]


def check_new(images: np.ndarray, remembered: np.ndarray | None, what: str) -> None:
    """Refuses images of which even one was used before; `remembered` may be None.

    `what` says what they were used for, e.g. "to train the flow".
    """
    if known := count_known(images, remembered):
        given = number_of(len(images), "image")
        raise InputError(
            f"{number_of(known, f'of {given} was', f'of {given} were')} used {what}, so these say "
            "nothing about new images; give images that nothing was made from."
        )


def _whole(images: float) -> int:
    """So many images, rounded down: 0.29 * 100, a little below 29 in floating point, means 29."""
    return int(images + 1e-9)


def _firsts(known: np.ndarray) -> np.ndarray:
    return np.sort(np.unique(known, return_index=True)[1])


def _among(known: np.ndarray, others: np.ndarray) -> np.ndarray:
    # Not by the default: NumPy 2.2 then subtracts, and overflows.
    return np.isin(known, others, kind="sort")


def _as_uint64(remembered: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(remembered, np.uint32)).view(np.uint64).reshape(-1)
