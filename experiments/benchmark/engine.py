"""Scores of every detector on an ID set, and SPEM's statistics along lambda, each computed once."""

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from ecood import encoders, metrics, score
from ecood.batches import map_images
from ecood.detector import Detector, detections
from ecood.encoders import Encoder
from ecood.progress import progress_bar
from ecood.score import GRID, Along, Scorer, SPEMState
from ecood.score.spem import PAPER, RECOMMENDED
from experiments.benchmark.cache import Cache, digest
from experiments.benchmark.sets import IDSet

__all__ = ["FORMS", "Found", "along", "curves", "detect", "identity", "remembered", "strengths"]

FORMS = {"spem": RECOMMENDED, "spem_paper": PAPER}
# By detector, seed and set of test images: the fields of `Detector.detect`'s result, [N] each.
Found = dict[str, list[dict[str, dict[str, np.ndarray]]]]


def detect(
    cache: Cache,
    id_set: IDSet,
    detectors: Mapping[str, Detector],
    seeds: int,
    made_of: Mapping[str, str],
) -> Found:
    """What every detector tells of every test image, at seeds 0, 1, ...

    `made_of` are digests of what the detectors were made from, of one by its name, of all by "".
    """
    name, tests, found = id_set.name, id_set.tests, {}
    common = {"scorer": made_of[""], "train": digest(id_set.split)}
    digests = {which: digest(x) for which, x in tests.items()}
    with progress_bar(len(detectors) * seeds * sum(map(len, tests.values())), name) as bar:
        for title, detector in detectors.items():
            bar.set_postfix_str(title)
            common |= {"detector": title, "further": made_of.get(title, "")}
            found[title] = [{} for _ in range(seeds)]
            for seed, told in enumerate(found[title]):
                key = jax.random.key(seed)
                fitted = functools.cache(functools.partial(detector.fit, key, id_set.split))
                for which, x in tests.items():
                    told[which] = cache.get(
                        f"{name}/{title}/{seed}_{which}",
                        common | {"seed": str(seed), "images": digests[which]},
                        lambda x=x: detections(detector, fitted(), key, x)._asdict(),
                    )
                    bar.update(len(x))
    return found


def along(
    cache: Cache, id_set: IDSet, state: SPEMState, made_of: str, limit: int | None = None
) -> dict[str, Along]:
    """Held-out, turned and at most `limit` test images along lambda, at the scorer's seed.

    `made_of` is a digest of the models of `state`.
    """
    key, held_out = jax.random.key(id_set.scorer.seed), id_set.split.held_out
    images = {"held_out": held_out, "turned": score.turned(held_out)}
    images |= {which: x[:limit] for which, x in id_set.tests.items()}
    common = {"scorer": made_of, "bank": digest(state.bank), "grid": str(GRID)}
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
    """Lambda of each form, chosen on ID images alone."""
    pair = seen["held_out"], seen["turned"]
    return {title: float(score.choose_strength(form, *pair)[0]) for title, form in FORMS.items()}


def curves(id_set: IDSet, seen: Mapping[str, Along]) -> dict[tuple[str, str, str], list[float]]:
    """AUROC at each strength of `GRID`, by (form, ID, OOD); held-out images are the reference."""
    scales, found = score.references(seen["held_out"]), {}
    for title, form in FORMS.items():
        scores = {which: score.scores_along(form, seen[which], scales) for which in id_set.tests}
        for ood in id_set.oods:
            pairs = zip(scores[id_set.name], scores[ood], strict=True)
            found[title, id_set.name, ood] = [metrics.auroc(*pair) for pair in pairs]
    return found


def remembered(cache: Cache, name: str, encoder: Encoder, images: Sequence[np.ndarray]) -> Encoder:
    """The encoder with its embeddings of an ID set's images, kept on disk."""
    images, who = np.concatenate(images), encoders.identity(encoder)
    key = {"encoder": who, "images": digest(images)}
    with progress_bar(len(images), f"{name}: embeddings, {encoder.name}") as bar:
        embed = functools.partial(
            map_images, Encoder.embed, encoder, images=images, progress=bar.update
        )
        place = f"{name}/embeddings_{who[:12]}"
        found = cache.get(place, key, lambda: {"embeddings": embed()})
    return encoders.remembered(encoder, images, **found)


def identity(scorer: Scorer) -> str:
    """A digest of all that decides a scorer's scores."""
    state = scorer.state
    models = str(state.flow.density), encoders.identity(state.encoder)
    return digest(state, models, state.form.name, str(state.draws), scorer.seed)
