"""The scores along lambda, embedded once, scored by the flow at each strength."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

import ecood.score
from ecood import metrics
from ecood.batches import map_images
from ecood.score import Reference, Scorer, combined, reference
from ecood.score.strength import GRID
from experiments import report
from experiments.benchmark import sets
from experiments.benchmark.cache import Cache, digest

__all__ = ["FORMS", "GRID", "Seen", "aurocs", "follow", "form_scores", "references"]

FORMS = ("spem", "spem_paper")


class Seen(NamedTuple):
    """One set of images along lambda.

    Attributes:
      similarity: [N].
      bits: [N], without noise.
      perturbed: [L, N], at each lambda of the grid.
    """

    similarity: np.ndarray
    bits: np.ndarray
    perturbed: np.ndarray


def follow(cache: Cache, name: str, scorer: Scorer, which: str, images: np.ndarray) -> Seen:
    """The images' bits along the grid, from the cache if they are known."""
    still = scorer.state._replace(noise_strength=np.float32(0), usual=None)
    key = jax.random.key(scorer.seed)

    def compute() -> np.ndarray:
        detect = ecood.score.detection_path(scorer.flow, scorer.encoder)
        onwards = ecood.score.noise_path(scorer.flow)
        with report.progress_bar((1 + len(GRID)) * len(images), f"{name}: {which}") as bar:
            at_rest = map_images(detect, still, key, images=images, progress=bar.update)
            curve = [
                map_images(
                    onwards,
                    still._replace(noise_strength=np.float32(strength)),
                    key,
                    images=(images, at_rest.similarity),
                    progress=bar.update,
                ).perturbed_bits
                for strength in GRID
            ]
        return np.stack([at_rest.similarity, at_rest.perturbed_bits, *curve])

    made_of = digest(*jax.tree.leaves(jax.tree.map(np.asarray, still)))
    key_of = {
        "scorer": made_of,
        "images": digest(images),
        "seed": str(scorer.seed),
        "grid": str(GRID),
    }
    found, _ = cache.get(f"{name}/{which}", key_of, compute)
    return Seen(found[0], found[1], found[2:])


def references(held_out: Seen) -> list[Reference]:
    """What is usual among the held-out images, at each lambda of the grid."""
    return [reference(held_out.bits, p, held_out.similarity) for p in held_out.perturbed]


def form_scores(form: str, seen: Mapping[str, Seen]) -> dict[str, np.ndarray]:
    """Scores [L, N] of each set of images, with the held-out ones as the reference."""
    if form == "spem_paper":
        return {which: one.perturbed for which, one in seen.items()}
    usual = references(seen["held_out"])
    return {
        which: np.stack(
            [
                np.asarray(combined(one.bits, perturbed, one.similarity, at_this_strength))
                for perturbed, at_this_strength in zip(one.perturbed, usual, strict=True)
            ]
        )
        for which, one in seen.items()
    }


def aurocs(cache: Cache, id_set: sets.IDSet) -> dict[tuple[str, str, str], list[float]]:
    """AUROC at each strength of the grid, by (form, ID, OOD); held-out images are the reference."""
    name, scorer, _, tests = id_set
    known = {"held_out": id_set.held_out, **tests}
    seen = {which: follow(cache, name, scorer, which, images) for which, images in known.items()}
    found = {}
    for form in FORMS:
        scores = form_scores(form, seen)
        for ood in id_set.oods:
            pairs = zip(scores[name], scores[ood], strict=True)
            found[form, name, ood] = [metrics.auroc(*pair) for pair in pairs]
    return found
