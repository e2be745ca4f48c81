"""Scores of every detector on an ID set, and SPEM's statistics along lambda, each computed once.

What was computed is on disk, a file per ID set, detector, seed and image set: a run resumes.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ecood import encoders, memory, metrics, score
from ecood.batches import map_images
from ecood.cache import Cache
from ecood.code_length import code_length
from ecood.detector import Detector, detections
from ecood.digests import digest
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.evaluation.roster import SPEM_FORMS, Guests, roster
from ecood.evaluation.sets import IDSet
from ecood.pairs import ByPair
from ecood.progress import progress_bar
from ecood.score import GRID, Along, SPEMState
from ecood.score.together import detect_together
from ecood.statistics import Draws
from ecood.words import number_of

__all__ = [
    "CURVES",
    "PARTS",
    "Around",
    "Found",
    "along",
    "around",
    "by_pair",
    "curves",
    "detect",
    "parts",
    "regret",
    "remembered",
    "strengths",
]

CURVES = ("spem", "spem_paper")  # the forms whose AUROC is drawn along lambda
# By detector, seed and set of test images: the fields of `Detector.detect`'s result, [N] each.
Found = dict[str, list[dict[str, dict[str, np.ndarray]]]]


class Around(NamedTuple):
    """What was found around one flow and encoder."""

    found: Found
    strengths: dict[str, float]  # lambda of each form, chosen on ID images
    seen: dict[str, Along]  # of the images along lambda, by set


def around(
    cache: Cache,
    id_set: IDSet,
    tables: Mapping[str, Encoder],
    guests: Guests,
    names: Iterable[str],
    seeds: int,
    *,
    curves: bool,
) -> Around:
    """The detectors `names`, those of them that there are, around the ID set's flow.

    `tables` are the scorer's and the guests' encoders, remembered, by identity. With `curves` the
    test images, too, are seen along lambda.
    """
    flow, train = id_set.scorer.flow, id_set.split.train
    encoder, *others = (
        tables[encoders.identity(each)] for each in (id_set.scorer.encoder, *guests.encoders)
    )
    state = id_set.scorer.state.replace(encoder=encoder, bank=memory.build(encoder, train))
    state = state.replace(draws=Draws(), neighbours=1)  # as the detectors have them
    seen = along(cache, id_set if curves else id_set._replace(tests={}), state)
    chosen = strengths(seen)
    known = roster(flow, encoder, chosen, train.shape[-1], guests._replace(encoders=others))
    detectors = {name: known[name] for name in names if name in known}
    made_of = {"": chosen} | guests.made()
    return Around(detect(cache, id_set, detectors, seeds, made_of), chosen, seen)


def detect(
    cache: Cache,
    id_set: IDSet,
    detectors: Mapping[str, Detector],
    seeds: int,
    made_of: Mapping[str, Any],
    together: Collection[str] = SPEM_FORMS,
) -> Found:
    """What every detector tells of every test image, at seeds 0, 1, ...

    `made_of` is what detectors were made from beside scorer and images, all of them by "". The
    states of those in `together` are SPEM's, around one flow and encoder: what they share is
    measured once.
    """
    name, tests, found = id_set.name, id_set.tests, {title: [] for title in detectors}
    common = {"scorer": digest(id_set.scorer.identity, made_of[""]), "train": digest(id_set.split)}
    digests = {which: digest(x) for which, x in tests.items()}
    with progress_bar(len(detectors) * seeds * sum(map(len, tests.values())), name) as bar:
        for seed in range(seeds):
            told = _teller(detectors, jax.random.key(seed), id_set, together)
            for title in detectors:
                common |= {"detector": title, "further": digest(made_of.get(title))}
                common |= {"seed": str(seed)}
                found[title].append({})
                for which, x in tests.items():
                    found[title][seed][which] = cache.get(
                        f"{name}/{title}/{seed}_{which}",
                        common | {"images": digests[which]},
                        functools.partial(told, title, which),
                    )
                    bar.update(len(x))
    return found


def _teller(
    detectors: Mapping[str, Detector], key: jax.Array, id_set: IDSet, together: Collection[str]
) -> Callable[[str, str], dict[str, np.ndarray]]:
    """The function of a detector's and a test set's names."""

    @functools.cache
    def fitted(title: str) -> Any:
        return detectors[title].fit(key, id_set.split)

    @functools.cache
    def shared(which: str) -> dict[str, score.Detection]:
        states = {title: fitted(title) for title in detectors if title in together}
        x = id_set.tests[which]
        return detect_together(states, key, x, map_images(code_length, images=x))

    def told(title: str, which: str) -> dict[str, np.ndarray]:
        if title in together:
            return shared(which)[title]._asdict()
        found = detections(detectors[title], fitted(title), key, id_set.tests[which])
        return _checked(title, which, found, len(id_set.tests[which]))

    return told


def _checked(title: str, which: str, found: Any, count: int) -> dict[str, np.ndarray]:
    """What a detector told of so many images, by field; refused if it is of another form."""
    score = np.asarray(getattr(found, "score", None))
    images = f"{number_of(count, 'image')} of {which}"
    if not hasattr(found, "_asdict") or score.shape != (count,):
        raise InputError(
            f"the detector {title} gives a {type(found).__name__} for {images}; expected a "
            "NamedTuple of arrays [B], one of them the score."
        )
    if lost := int(np.isnan(score).sum()):
        raise InputError(
            f"the detector {title} gives NaN for {lost} of {images}; expected numbers."
        )
    return found._asdict()


# What SPEM tells of its parts: the score of each.
PARTS = {
    "likelihood": lambda told: told["bits"],
    "similarity": lambda told: -told["similarity"],
    "code": lambda told: told["bits"] - told["code_length"],
}


def parts(of_spem: Sequence[Mapping[str, Any]]) -> Found:
    """SPEM's parts as detectors, from what it told at each seed."""
    return {
        part: [{which: {"score": score(told)} for which, told in seed.items()} for seed in of_spem]
        for part, score in PARTS.items()
    }


def by_pair(id_set: IDSet, found: Found) -> ByPair:
    """The scores of an ID set by pair, detector and seed, or flow."""
    name, scores = id_set.name, {}
    for ood in id_set.oods if found else ():
        of = {d: [(s[name]["score"], s[ood]["score"]) for s in each] for d, each in found.items()}
        scores[name, ood] = of
    return scores


def along(
    cache: Cache, id_set: IDSet, state: SPEMState, limit: int | None = None
) -> dict[str, Along]:
    """Held-out, turned and at most `limit` test images along lambda; `state` is of the scorer."""
    key, held_out = jax.random.key(id_set.scorer.seed), id_set.split.held_out
    images = {"held_out": held_out, "turned": score.turned(held_out)}
    images |= {which: x[:limit] for which, x in id_set.tests.items()}
    common = {"scorer": id_set.scorer.identity, "bank": digest(state.bank), "grid": str(GRID)}
    common |= {"measured by": str((state.draws, state.neighbours))}
    total, seen = (len(GRID) + 2) * sum(map(len, images.values())), {}
    with progress_bar(total, f"{id_set.name}: along lambda") as bar:
        for which, x in images.items():
            found = cache.get(
                f"{id_set.name}/along_lambda/{which}",
                common | {"images": digest(x)},
                lambda x=x: score.measure(state, key, x, GRID, bar.update)._asdict(),
            )
            seen[which] = Along(**found)
    return seen


def strengths(seen: Mapping[str, Along]) -> dict[str, float]:
    """Lambda of each form, chosen on ID images alone; 0 for those that perturb nothing."""
    pair = seen["held_out"], seen["turned"]
    chosen = {
        name: float(score.choose_strength(form, *pair)[0]) for name, form in SPEM_FORMS.items()
    }
    return chosen | {f"spem_{name}": 0.0 for name in score.NO_NOISE}


def curves(id_set: IDSet, seen: Mapping[str, Along]) -> dict[tuple[str, str, str], list[float]]:
    """AUROC at each strength of `GRID`, by (form, ID, OOD); held-out images are the reference."""
    scales, found = score.references(seen["held_out"]), {}
    for title in CURVES:
        form = SPEM_FORMS[title]
        scores = {which: score.scores_along(form, seen[which], scales) for which in id_set.tests}
        for ood in id_set.oods:
            pairs = zip(scores[id_set.name], scores[ood], strict=True)
            found[title, id_set.name, ood] = [metrics.auroc(*pair) for pair in pairs]
    return found


def regret(curve: Sequence[float], strength: float) -> tuple[float, float, float]:
    """(AUROC at a strength of `GRID`, the largest along it, the strength of that)."""
    at, best = int(np.argmin(np.abs(np.subtract(GRID, strength)))), int(np.argmax(curve))
    return curve[at], curve[best], GRID[best]


def remembered(cache: Cache, name: str, encoder: Encoder, images: Sequence[np.ndarray]) -> Encoder:
    """The encoder with its embeddings of an ID set's images, kept on disk."""
    images, who = np.concatenate(images), encoders.identity(encoder)
    key = {"encoder": who, "images": digest(images)}
    with progress_bar(len(images), f"{name}: embeddings, {encoder.name}") as bar:
        more = {"images": images, "progress": bar.update}
        embed = functools.partial(map_images, Encoder.embed, encoder, **more)
        place = f"{name}/embeddings_{who[:12]}"
        found = cache.get(place, key, lambda: {"embeddings": embed()})
    return encoders.remembered(encoder, images, **found)
