"""Scores of every detector on an ID set, and SPEM's statistics along lambda, each computed once.

What was computed is on disk, a file per ID set, detector, seed and image set: a run resumes.
"""

import functools
import hashlib
import importlib.util
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

import ecood
from ecood import encoders, metrics, score
from ecood.batches import map_images
from ecood.detector import Detector, detections
from ecood.encoders import Encoder
from ecood.progress import progress_bar
from ecood.score import GRID, Along, SPEMState
from ecood.weights import atomic_path
from experiments.benchmark.roster import FORMS
from experiments.benchmark.sets import IDSet

SOURCES = (pathlib.Path(ecood.__file__).parent, pathlib.Path(__file__).with_name("roster.py"))
COMPUTE = {name: name for name in ("jax", "jaxlib", "flax", "distrax", "numpy", "scipy")}
COMPUTE |= {"sklearn": "scikit-learn", "imagecodecs": "imagecodecs", "PIL": "pillow"}
CURVES = ("spem", "spem_paper")  # the forms whose AUROC is drawn along lambda
# By detector, seed and set of test images: the fields of `Detector.detect`'s result, [N] each.
Found = dict[str, list[dict[str, dict[str, np.ndarray]]]]


def digest(*parts: Any) -> str:
    """SHA-256 over pytrees of arrays, and over anything else with a stable `repr`."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(parts):
        if isinstance(leaf, np.ndarray | jax.Array):
            sha.update(f"{leaf.shape} {leaf.dtype}".encode() + np.asarray(leaf).tobytes())
        else:
            sha.update(repr(leaf).encode())
    return sha.hexdigest()


class Cache:
    """Remembers named arrays by a key and by the source and packages that computed them."""

    def __init__(self, directory: pathlib.Path, sources: tuple[pathlib.Path, ...] = SOURCES):
        self.directory, self.source = directory, digest(_source(sources), versions())

    def get(
        self, place: str, key: Mapping[str, str], compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays at `place`, computed if they are not there, or not with this key."""
        path = self.directory / f"{place}.npz"
        key_text = json.dumps({**key, "source": self.source}, sort_keys=True)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                if str(found["key"]) == key_text:
                    return {name: found[name] for name in found.files if name != "key"}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # not there, or cut short: computed anew
        arrays = dict(compute())
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, key=np.array(key_text), **arrays)
        return arrays


def versions() -> list[str]:
    """Of the packages that compute scores; an upgrade may change them."""
    installed = filter(importlib.util.find_spec, COMPUTE)
    return [f"{name} {metadata.version(COMPUTE[name])}" for name in installed]


@functools.cache
def _source(places: tuple[pathlib.Path, ...]) -> str:
    """A digest of all Python files there, as this process runs them."""
    files = [sorted(p.rglob("*.py")) if p.is_dir() else [p] for p in places]
    return digest([(file.name, file.read_bytes()) for file in sum(files, [])])


def detect(
    cache: Cache, id_set: IDSet, detectors: Mapping[str, Detector], seeds: int, made_of: Mapping
) -> Found:
    """What every detector tells of every test image, at seeds 0, 1, ...

    `made_of` is what detectors were made from beside scorer and images, all of them by "".
    """
    name, tests, found = id_set.name, id_set.tests, {}
    common = {"scorer": digest(identity(id_set.scorer), made_of[""]), "train": digest(id_set.split)}
    digests = {which: digest(x) for which, x in tests.items()}
    with progress_bar(len(detectors) * seeds * sum(map(len, tests.values())), name) as bar:
        for title, detector in detectors.items():
            common |= {"detector": title, "further": digest(made_of.get(title))}
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
    cache: Cache, id_set: IDSet, state: SPEMState, limit: int | None = None
) -> dict[str, Along]:
    """Held-out, turned and at most `limit` test images along lambda; `state` is of the scorer."""
    key, held_out = jax.random.key(id_set.scorer.seed), id_set.split.held_out
    images = {"held_out": held_out, "turned": score.turned(held_out)}
    images |= {which: x[:limit] for which, x in id_set.tests.items()}
    common = {"scorer": identity(id_set.scorer), "bank": digest(state.bank), "grid": str(GRID)}
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
    chosen = {name: float(score.choose_strength(form, *pair)[0]) for name, form in FORMS.items()}
    return chosen | {f"spem_{name}": 0.0 for name in score.NO_NOISE}


def curves(id_set: IDSet, seen: Mapping[str, Along]) -> dict[tuple[str, str, str], list[float]]:
    """AUROC at each strength of `GRID`, by (form, ID, OOD); held-out images are the reference."""
    scales, found = score.references(seen["held_out"]), {}
    for title in CURVES:
        form = FORMS[title]
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
        more = {"images": images, "progress": bar.update}
        embed = functools.partial(map_images, Encoder.embed, encoder, **more)
        place = f"{name}/embeddings_{who[:12]}"
        found = cache.get(place, key, lambda: {"embeddings": embed()})
    return encoders.remembered(encoder, images, **found)


def identity(scorer: score.Scorer) -> str:
    """A digest of all that decides a scorer's scores."""
    state = scorer.state
    models = str(state.flow.density), encoders.identity(state.encoder)
    return digest(state, models, state.form.name, str(state.draws), scorer.seed)
