"""Every detector on every pair of data sets that is at hand.

    python -m experiments.benchmark --data DIRECTORY --imagenet32 FILE

Fits SPEM, its parts and controls, and the likelihood-based baselines on each in-distribution (ID)
set around the same flow, and scores ID and OOD test images with each. Writes `benchmark.json`
(one row a pair, detector and seed), `run.json` (settings, what is missing, comparisons),
`benchmark.md` and figures. Scores are cached: run the same command again to resume.
"""

import argparse
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import ecood.score
from ecood import flows
from ecood.batches import forget_programs
from ecood.detector import Detector
from ecood.detector import scores as detector_scores
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.score import Scorer
from experiments import report
from experiments.benchmark import curves, pictures, published, sets, tables
from experiments.benchmark.cache import Cache, digest, remembered
from experiments.benchmark.roster import roster

FORMS = {"spem": ecood.score.spem, "spem_paper": ecood.score.spem_paper}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.benchmark", __doc__)
    add = parser.add_argument
    add("--data", default="auto", help="auto, embedded, tfds or a path (default: auto)")
    add("--imagenet32", help="an .npz file with a `test` array of 32x32 ImageNet crops")
    add("--id", nargs="+", choices=list(sets.OOD_OF), help="these ID sets only (default: all)")
    add("--detectors", nargs="+", help="these detectors only (default: all)")
    add(
        "--scorer",
        action="append",
        default=[],
        metavar="ID=SCORER",
        help="the flow and encoder of an ID set: a scorer's directory (default: the shipped one)",
    )
    for option, what in (
        ("--background", "a background flow, for likelihood_ratio"),
        ("--member", "one more flow of an ensemble, for waic"),
    ):
        use = f"{what}; repeatable (default: the shipped one, around the shipped scorer)"
        add(option, action="append", default=[], metavar="ID=FLOW", help=use)
    add("--seeds", type=int, default=3, help="noise seeds (default: 3)")
    add("--limit", type=int, default=2000, help="test images of each set at most (2000)")
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmark"), help="where to write")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Loads, scores, reports."""
    if arguments.seeds < 1:
        raise InputError(f"--seeds is {arguments.seeds}; expected at least one noise seed.")
    scorers = dict(sets.by_id("--scorer", arguments.scorer))
    cache = Cache(arguments.out / "scores")
    known, missing = sets.load_all(
        arguments.data,
        arguments.imagenet32,
        arguments.id or sets.OOD_OF,
        arguments.limit,
        lambda name: _scorer(name, scorers),
        own=scorers,
    )
    scores: dict[tuple[str, str], dict[str, list[tables.Scores]]] = {}
    strengths, costs, along = {}, {}, {}
    for id_set in known:
        scored = score_all(arguments, cache, id_set)
        name = id_set.name
        strengths[name], costs[name] = scored.strengths, scored.costs
        along |= curves.aurocs(cache, id_set)
        for ood in id_set.oods:
            scores[name, ood] = {
                detector: [tables.Scores(seed[name], seed[ood]) for seed in seeds]
                for detector, seeds in scored.scores.items()
            }
        forget_programs()
    write(arguments, scores, missing, strengths, costs, along)


def _scorer(name: str, given: dict[str, str]) -> Scorer:
    if name not in given and name not in ecood.score.shipped():
        raise InputError(
            f"no scorer for {name} is shipped; train a flow, fit a scorer and name it: "
            f"--scorer {name}=DIRECTORY."
        )
    return ecood.score.load(given.get(name, name))


class Scored(NamedTuple):
    """All scores on one ID set.

    Attributes:
      scores: by detector, one dict a seed, by image set: float32 [N].
      strengths: the noise strengths that were chosen on ID images.
      costs: seconds an image by detector, for what this run computed itself.
    """

    scores: dict[str, list[dict[str, np.ndarray]]]
    strengths: dict[str, float]
    costs: dict[str, float]


def score_all(arguments: argparse.Namespace, cache: Cache, id_set: sets.IDSet) -> Scored:
    """Fits and scores every detector at every seed, or reads what an earlier run computed."""
    name, scorer, train, tests = id_set
    more = {kind: further(arguments, kind, name) for kind in ("background", "member")}

    def take_part(encoder: Encoder, strengths: Mapping[str, float]) -> dict[str, Detector]:
        channels = train.shape[-1]
        return roster(scorer.flow, encoder, *strengths.values(), channels, *more.values())

    detectors = take_part(scorer.encoder, dict.fromkeys(FORMS, 0.0))  # their names; none is run
    if unknown := sorted(set(arguments.detectors or ()) - set(detectors)):
        raise InputError(
            f"there is no detector {', '.join(unknown)}; expected some of {', '.join(detectors)}."
        )
    encoder = remembered(cache, name, scorer.encoder, id_set.everything)
    strengths = {
        form: _strength(detector(scorer.flow, encoder), train) for form, detector in FORMS.items()
    }
    detectors = take_part(encoder, strengths)
    chosen = {d: detectors[d] for d in arguments.detectors or detectors}
    total = len(chosen) * arguments.seeds * sum(map(len, tests.values()))
    made_of = _digest(scorer.state, strengths)
    beside = {
        "likelihood_ratio": _digest([flow.variables for flow in more["background"]]),
        "waic": _digest([flow.variables for flow in more["member"]]),
    }
    fitted_on = digest(train)
    of_images = {which: digest(x) for which, x in tests.items()}
    results: dict[str, list[dict[str, np.ndarray]]] = {}
    costs = {}
    with report.progress_bar(total, name) as bar:
        for title, detector in chosen.items():
            bar.set_postfix_str(title)
            results[title] = []
            for seed in range(arguments.seeds):
                fitted = _Fitted(detector, train, seed)
                row = {}
                for which, x in tests.items():
                    key = {
                        "scorer": made_of,
                        "train": fitted_on,
                        "images": of_images[which],
                        "detector": title,
                        "further flows": beside.get(title, ""),
                        "seed": str(seed),
                    }
                    row[which], cached = cache.get(
                        f"{name}/{title}/{seed}_{which}", key, lambda x=x: fitted.scores(x)
                    )
                    bar.update(len(x))
                    if not cached:
                        costs[title] = fitted.seconds / fitted.images
                results[title].append(row)
    return Scored(results, strengths, costs)


def _digest(*trees: Any) -> str:
    """Of trees of arrays."""
    return digest(*jax.tree.leaves(jax.tree.map(np.asarray, trees)))


def _strength(detector: Detector, train: np.ndarray) -> float:
    return float(detector.fit(jax.random.key(0), train).noise_strength)


class _Fitted:
    """A detector that is fitted when it is first asked, with a clock."""

    def __init__(self, detector: Detector, train: np.ndarray, seed: int):
        self._detector, self._train, self._key = detector, train, jax.random.key(seed)
        self._state: Any = None
        self._is_fitted = False
        self.seconds, self.images = 0.0, 0

    def scores(self, images: np.ndarray) -> np.ndarray:
        if not self._is_fitted:
            self._state, self._is_fitted = self._detector.fit(self._key, self._train), True
        started = time.perf_counter()
        scores = detector_scores(self._detector, self._state, self._key, images)
        self.seconds += time.perf_counter() - started
        self.images += len(images)
        return np.asarray(scores)


def further(arguments: argparse.Namespace, kind: str, name: str) -> list[flows.Flow]:
    """The background flows or ensemble members given for an ID set, else the shipped one.

    What is shipped belongs to the shipped scorer's flow, and is not set beside another.
    """
    given = [path for of, path in sets.by_id(f"--{kind}", getattr(arguments, kind)) if of == name]
    shipped = f"{name}_{kind}"
    if not given and name not in dict(sets.by_id("--scorer", arguments.scorer)):
        given = [shipped] if shipped in flows.shipped() else []
    return [flows.load(path) for path in given]


def write(
    arguments: argparse.Namespace,
    scores: dict[tables.Pair, dict[str, list[tables.Scores]]],
    missing: list[sets.Missing],
    strengths: dict[str, dict[str, float]],
    costs: dict[str, dict[str, float]],
    along: dict[tuple[str, str, str], list[float]],
) -> None:
    """The table, the page and the figures."""
    table = tables.rows(scores)
    result = {
        "missing": [m._asdict() for m in missing],
        "noise_strengths": strengths,
        "seconds_an_image": costs,
        "curves": [
            {"form": f, "id": i, "ood": o, "strengths": curves.GRID, "auroc": curve}
            for (f, i, o), curve in along.items()
        ],
        "comparisons": tables.compare(scores, "spem"),
        **report.identify(arguments),
    }
    out = arguments.out
    report.write_json(out / "benchmark.json", table)
    report.write_json(out / "run.json", result)
    text = "\n".join(
        [
            tables.markdown(result, table),
            "## Published numbers beside ours",
            "",
            *published.table(tables.summarise(table)),
            "",
        ]
    )
    report.write_text(out / "benchmark.md", text)
    pictures.heat_map(out / "heat_map.png", table)
    pictures.roc_curves(out / "roc.png", scores)
    chosen = {(form, name): s for name, forms in strengths.items() for form, s in forms.items()}
    pictures.strength_curves(out / "curves.png", along, chosen)
    print(text)
    print(
        f"wrote {out}/benchmark.json, run.json, benchmark.md, heat_map.png, roc.png and curves.png"
    )


if __name__ == "__main__":
    report.main(run, build_parser())
