"""Which pairs the benchmark has, their images, and which of them a scorer was made from."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ecood import data, score, splits
from ecood.data import arrays
from ecood.data.sizes import averaged_down
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.score import Scorer
from ecood.score.unseen import fresh, split_of
from ecood.words import number_of

__all__ = ["OOD_OF", "IDSet", "load_all", "load_more", "load_ood", "retrained", "with_flow"]

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
    """An ID set that is at hand, and what is run against it."""

    name: str
    scorer: Scorer
    split: splits.Split  # of the ID training images, in the parts that the scorer was made from
    tests: Mapping[str, np.ndarray]  # by set, the ID set's own first: uint8 [N, H, W, C] each
    notes: Sequence[str] = ()  # what a reader must know of the images, a sentence each

    @property
    def oods(self) -> list[str]:
        """The OOD sets."""
        return list(self.tests)[1:]


def _shipped(name: str, images: np.ndarray) -> Scorer:
    del images
    return score.load(name)


def load_all(
    source: str,
    imagenet32: str | None,
    names: Iterable[str],
    limit: int | None,
    load_scorer: Callable[[str, np.ndarray], Scorer] = _shipped,
    own: Collection[str] = (),
    ood: str | None = None,
) -> tuple[list[IDSet], list[dict[str, str]]]:
    """Of the ID sets `names`, those that have a pair at hand (else refused); what is missing, why.

    At most `limit` test images of each set are loaded. `load_scorer` gives the scorer of an ID set
    and its training images, or refuses; `own` are the sets for which it is not the shipped one.
    `ood` names more OOD sets (`load_more`), each run against every ID set of its shape.
    """
    found, missing, more = [], [], load_more(ood, limit) if ood else {}
    for name in names:
        tests, notes, oods = {}, [], OOD_OF[name]
        train_source = source if name in own else SHIPPED_FROM.get(name, source)
        try:
            train = data.load_images(train_source, name, "train")
            scorer = load_scorer(name, train)
            split = split_of(train, scorer.flow, scorer.encoder, scorer.fitted_on, notes)
            images = data.load_images(source, name, "test", limit=limit)
            tests[name] = fresh(images, scorer, name, notes)
        except InputError as error:
            missing += [{"id": name, "ood": each, "reason": str(error)} for each in oods]
            continue
        for other in oods:
            try:
                images = load_ood(source, imagenet32, other, train.shape[1:], limit)
                tests[other] = fresh(images, scorer, other, notes)
            except InputError as error:
                missing.append({"id": name, "ood": other, "reason": str(error)})
        for other, images in more.items():
            if other in tests:
                raise InputError(f"{ood} has a set {other}, as ecood does; give it another name.")
            if images.shape[1:] == train.shape[1:]:
                tests[other] = fresh(images, scorer, other, notes)
        if len(tests) > 1:
            found.append(IDSet(name, scorer, split, tests, notes))
    taken = {other for id_set in found for other in id_set.tests}
    found, lost = _in_common(found)
    missing += lost
    for other, images in more.items():
        if found and other not in taken:
            reason = f"its images are {list(images.shape[1:])}, as those of no ID set here."
            missing.append({"id": "any", "ood": other, "reason": reason})
    if not found:
        reasons = "; ".join("{id} against {ood}: {reason}".format(**pair) for pair in missing)
        raise InputError(f"no pair can be run: {reasons}")
    return found, missing


def _in_common(found: Sequence[IDSet]) -> tuple[list[IDSet], list[dict[str, str]]]:
    """The ID sets, with the same images of each OOD set, and the pairs that have none left.

    Of some images the scorer of one ID set may know a few.
    """
    kept = [id_set._replace(tests=dict(id_set.tests), notes=[*id_set.notes]) for id_set in found]
    lost = []
    for other, shape in dict.fromkeys((o, s.tests[o].shape[1:]) for s in found for o in s.oods):
        theirs = [s for s in kept if other in s.oods and s.tests[other].shape[1:] == shape]
        remembered = [splits.remember(id_set.tests[other]) for id_set in theirs]
        for id_set in theirs:
            images = id_set.tests[other]
            common = np.all([splits.is_known(images, each) for each in remembered], axis=0)
            id_set.tests[other] = images[common]
            if not common.any():
                del id_set.tests[other]
                reason = "the scorers of the ID sets together know all of its images."
                lost.append({"id": id_set.name, "ood": other, "reason": reason})
            elif gone := np.sum(~common):
                words = number_of(gone, "image is", "images are")
                told = f"{words} left out of {other}: the scorer of another ID set knows them."
                id_set.notes.append(told)
    return [id_set for id_set in kept if id_set.oods], lost


def load_more(path: str, limit: int | None) -> dict[str, np.ndarray]:
    """The sets of an .npz file by name; of a larger one `limit` images, drawn at random, seed 0.

    Of "hf:OWNER/NAME" the first `limit` images of its split test.

    Raises:
      InputError: if it cannot be read, or an array is not uint8 [N, H, W, C].
    """
    if path.startswith("hf:"):
        return {path: data.load_images(path, path, "test", limit=limit)}
    return arrays.load_sets(path, limit)


def retrained(id_set: IDSet, flow: Flow) -> IDSet:
    """The ID set around a flow that was trained as its scorer's was, with what that held out.

    Refused if the flow knows test images, or flow and encoder together most of the images.
    """
    for what, images in id_set.tests.items():
        if splits.count_known(images, flow.trained_on):
            raise InputError(f"a retrained flow of {id_set.name} was trained on images of {what}.")
    train, held_out, _ = id_set.split
    again = with_flow(id_set, flow)
    split = splits.as_split(np.concatenate([train, held_out]), flow, id_set.scorer.encoder)
    if len(split.held_out) < len(held_out) / 2:
        raise InputError(
            f"a retrained flow of {id_set.name} leaves "
            f"{number_of(len(split.held_out), 'image')} that neither it nor the encoder has seen; "
            f"expected about {len(held_out)}: train it beside the scorer's flow "
            "(train_flow --beside)."
        )
    return again._replace(split=split)


def with_flow(id_set: IDSet, flow: Flow) -> IDSet:
    """The ID set around another flow, which its scorer is not calibrated for."""
    state = id_set.scorer.state.replace(flow=flow)
    return id_set._replace(scorer=dataclasses.replace(id_set.scorer, state=state, calibration=None))


def load_ood(
    source: str, imagenet32: str | None, name: str, shape: tuple[int, int, int], limit: int | None
) -> np.ndarray:
    """At most `limit` OOD test images; of larger ones the middle square, averaged down."""
    if name == "imagenet32" and imagenet32 is None:
        raise InputError("no 32x32 ImageNet crops were given; name their file: --imagenet32.")
    source = imagenet32 if name == "imagenet32" else source
    images = data.load_images(source, name, "test", limit=limit)
    if images.shape[-1] != shape[-1]:
        raise InputError(
            f"{name} has {number_of(images.shape[-1], 'channel')}; expected {shape[-1]}, as the ID "
            "images have."
        )
    if images.shape[1:] == shape:
        return images
    return averaged_down(images, shape[:2])
