"""Every detector on every pair of data sets that is at hand.

    python -m experiments.benchmark --data DIRECTORY --imagenet32 FILE

Fits SPEM, its parts and controls, and the likelihood-based baselines on each in-distribution (ID)
set around the same flow, and scores test images with each. Writes `benchmark.json` (a row a pair,
detector and seed), `run.json` (settings, what is missing, comparisons), `benchmark.md` and figures.
Scores are cached: the same command resumes.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecood import encoders, flows, pairs, score
from ecood.batches import forget_programs
from ecood.cache import Cache
from ecood.errors import InputError
from ecood.evaluation import engine, sets
from ecood.evaluation.roster import OF_ENCODERS, SPEM_FORMS, Guests, roster, without_flow
from ecood.evaluation.yours import yours
from ecood.score import unseen
from experiments import figures, report
from experiments.benchmark import published, tables


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    names = "experiments.benchmark", __doc__, "runs/benchmark"
    images = "limit", "imagenet32", "id", "ood"
    parser = report.parser(*names, *images, data="auto", limit=2000)
    add, of_id = parser.add_argument, {"type": report.of_id, "action": "append", "default": []}
    add("--detectors", nargs="+", help="these detectors only (default: all)")
    what = "also your detector: a function of (flow, encoder) that makes a Detector; repeatable"
    add("--detector", metavar="MODULE:NAME", action="append", default=[], help=what)
    add("--against", default="spem", help="the detector that others are compared with (spem)")
    what = "the flow and encoder of an ID set: a scorer's directory (default: the shipped one)"
    add("--scorer", metavar="ID=SCORER", help=what, **of_id)
    what = "another flow (a name or a file) for an ID set, with its scorer's encoder"
    add("--flow", metavar="ID=FLOW", help=what, **of_id)
    often = "repeatable (default: the shipped one, around the shipped scorer)"
    what = f"a background flow, for likelihood_ratio; {often}"
    add("--background", metavar="ID=FLOW", help=what, **of_id)
    what = f"one more flow of an ensemble, for waic; {often}"
    add("--member", metavar="ID=FLOW", help=what, **of_id)
    what = "one of several flows trained alike from different seeds, for intervals over them"
    add("--retrained", metavar="ID=FLOW", help=what, **of_id)
    what = "these detectors only around retrained flows (default: as around the scorer's)"
    add("--retrained-detectors", nargs="+", metavar="DETECTOR", help=what)
    what = "one more encoder for an ID set, in SPEM and alone (of train_encoder); repeatable"
    add("--encoder", metavar="ID=FILE", help=what, **of_id)
    add("--seeds", type=int, default=3, help="noise seeds (default: 3)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Loads, scores, reports."""
    if arguments.seeds < 1:
        raise InputError(f"--seeds is {arguments.seeds}; expected at least one noise seed.")
    mine = yours(arguments.detector)
    own, names = dict(arguments.scorer), arguments.id or sets.OOD_OF
    flow_of = dict(arguments.flow)

    def load_scorer(name: str, images: np.ndarray) -> score.Scorer:
        scorer = score.load(own.get(name, name))
        if name not in flow_of:
            return scorer
        flow = flows.load(flow_of[name])
        return score.fit(
            flow, scorer.encoder, unseen.split_of(images, flow, scorer.encoder, None, [])
        )

    images = arguments.data, arguments.imagenet32, names, arguments.limit
    known, missing = sets.load_all(*images, load_scorer, own, arguments.ood)
    scores, retrained, strengths, curves = {}, {}, {}, {}
    for id_set in known:
        own, of_flows = detect(arguments, id_set, mine)
        scores |= engine.by_pair(id_set, own.found)
        retrained |= engine.by_pair(id_set, of_flows)
        strengths[id_set.name] = own.strengths
        curves |= engine.curves(id_set, own.seen)
        forget_programs()
    rows, against = pairs.rows(scores), arguments.against
    ran = any(against in of for of in scores.values())  # unless --detectors leaves it out
    result = {
        "missing": missing,
        "notes": {id_set.name: id_set.notes for id_set in known},
        "noise_strengths": strengths,
        "curves": [
            {"form": form, "id": i, "ood": o, "strengths": score.GRID, "auroc": curve}
            for (form, i, o), curve in curves.items()
        ],
        "against": against,
        "comparisons": pairs.compare(scores, against) if ran else [],
        "mean_comparisons": pairs.compare_means(scores, against) if ran else [],
        "retrained": pairs.over_flows(retrained, against if ran else None),
    }
    out, summary = arguments.out, pairs.summarise(rows)
    report.write_json(out / "benchmark.json", rows)
    figures.heat_map(out / "heat_map.png", summary)
    figures.roc_curves(out / "roc.png", scores)
    figures.strength_curves(out / "curves.png", curves, strengths)
    page = report.paragraphs(tables.page(result, rows), published.page(summary))
    also = ("benchmark.json", "heat_map.png", "roc.png", "curves.png")
    report.write(arguments, result, page, files=("run.json", "benchmark.md"), also=also)


def detect(
    arguments: argparse.Namespace, id_set: sets.IDSet, mine: Mapping[str, Any]
) -> tuple[engine.Around, engine.Found]:
    """What is found around an ID set's flow, by seed, and around retrained flows, by flow."""
    guests, again = invited(arguments, id_set.name, mine), _of(arguments.retrained, id_set.name)
    if len(again) == 1:
        raise InputError(
            f"--retrained gives {id_set.name} one flow; expected two or more, or none."
        )
    again = [flows.load(path) for path in again]
    around_again = [sets.retrained(id_set, flow) for flow in again]
    names = wanted(arguments, id_set, guests)
    cache = Cache(arguments.out / "scores")
    parts = [id_set.split.held_out, *(each.split.held_out for each in around_again)]
    images = [*id_set.split[:2], *map(score.turned, parts), *id_set.tests.values()]
    known = (id_set.scorer.encoder, *guests.encoders)
    remembered = {
        encoders.identity(each): engine.remembered(cache, id_set.name, each, images)
        for each in known
    }
    own = engine.around(cache, id_set, remembered, guests, names, arguments.seeds, curves=True)
    asked = {*names} & {*(arguments.retrained_detectors or names), arguments.against}
    same, of_flows = without_flow(guests), {}
    for index, other in enumerate(around_again):
        cache = Cache(arguments.out / "scores" / f"retrained_{index}")
        others = guests._replace(members=again[:index] + again[index + 1 :])
        told = engine.around(cache, other, remembered, others, asked - same, 1, curves=False).found
        for name in own.found:
            if name in told or name in same:
                of_flows.setdefault(name, []).append(told.get(name, own.found[name])[0])
        forget_programs()
    return own, of_flows


def invited(arguments: argparse.Namespace, name: str, mine: Mapping[str, Any]) -> Guests:
    """What the command line gives for an ID set, and what is shipped beside the shipped scorer."""
    further = {}
    for kind in ("background", "member"):
        given = _of(getattr(arguments, kind), name)
        if not given and name not in dict(arguments.scorer + arguments.flow):
            given = [shipped for shipped in flows.shipped() if shipped == f"{name}_{kind}"]
        further[f"{kind}s"] = [flows.load(path) for path in given]
    more = [encoders.load(path) for path in _of(arguments.encoder, name)]
    return Guests(**further, encoders=more, yours=mine)


def wanted(arguments: argparse.Namespace, id_set: sets.IDSet, guests: Guests) -> list[str]:
    """The names of the detectors that were asked for; refused if one is of no ID set."""
    state, strengths = id_set.scorer.state, dict.fromkeys(SPEM_FORMS, 0.0)
    known = roster(state.flow, state.encoder, strengths, id_set.split.train.shape[-1], guests)
    names = [*dict.fromkeys([*(arguments.detectors or known), *guests.yours])]
    elsewhere = {
        f"{kind}_{encoders.load(f).name}" for _, f in arguments.encoder for kind in OF_ENCODERS
    }
    asked = {*names, arguments.against, *(arguments.retrained_detectors or ())}
    if unknown := ", ".join(sorted(asked - set(known) - elsewhere)):
        raise InputError(f"there is no detector {unknown}; expected some of {', '.join(known)}.")
    return names


def _of(given: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for of, value in given if of == name]


if __name__ == "__main__":
    report.main(run, build_parser())
