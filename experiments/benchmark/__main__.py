"""Every detector on every pair of data sets that is at hand.

    python -m experiments.benchmark --data DIRECTORY --imagenet32 FILE

Fits SPEM, its parts and controls, and the likelihood-based baselines on each in-distribution (ID)
set around the same flow, and scores test images with each. Writes `benchmark.json` (a row a pair,
detector and seed), `run.json` (settings, what is missing, comparisons), `benchmark.md` and figures.
Scores are cached: the same command resumes.
"""

import argparse
import importlib
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ecood import encoders, flows, memory, pairs, score
from ecood.batches import forget_programs
from ecood.cache import Cache
from ecood.detector import Detector
from ecood.errors import InputError
from ecood.evaluation import engine, sets
from ecood.evaluation.roster import WITHOUT_FLOW, roster
from ecood.score import unseen
from experiments import figures, report
from experiments.benchmark import published, tables

TRY = ("spem", "similarity")  # what further encoders are tried in


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    images = {"data": "auto", "limit": 2000, "imagenet32": True}
    parser = report.parser("experiments.benchmark", __doc__, "runs/benchmark", **images)
    add, of_id = parser.add_argument, {"type": report.of_id, "action": "append", "default": []}
    add("--id", nargs="+", choices=list(sets.OOD_OF), help="these ID sets only (default: all)")
    add("--detectors", nargs="+", help="these detectors only (default: all)")
    what = "also your detector: a function of (flow, encoder) that makes a Detector; repeatable"
    add("--detector", metavar="MODULE:NAME", type=importable, action="append", help=what)
    add("--against", default="spem", help="the detector that others are compared with (spem)")
    what = (
        "more OOD sets, for the ID sets of their shape: an .npz file, each array in it a set; or "
    )
    add("--ood", metavar="FILE", help=f"{what}hf:OWNER/NAME")
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
    more = sets.load_more(arguments.ood, arguments.limit) if arguments.ood else {}
    known, missing = sets.load_all(*images, load_scorer, own, more)
    scores, retrained, strengths, curves = {}, {}, {}, {}
    for id_set in known:
        found, of_flows, strengths[id_set.name], of_set = detect(arguments, id_set)
        scores |= engine.by_pair(id_set, found)
        retrained |= engine.by_pair(id_set, of_flows)
        curves |= of_set
        forget_programs()
    rows, against = pairs.rows(scores), arguments.against
    result = {
        "missing": missing,
        "notes": {id_set.name: id_set.notes for id_set in known},
        "noise_strengths": strengths,
        "curves": [
            {"form": form, "id": i, "ood": o, "strengths": score.GRID, "auroc": curve}
            for (form, i, o), curve in curves.items()
        ],
        "against": against,
        "comparisons": pairs.compare(scores, against),
        "mean_comparisons": pairs.compare_means(scores, against),
        "retrained": pairs.over_flows(retrained, against),
    }
    out, summary = arguments.out, pairs.summarise(rows)
    report.write_json(out / "benchmark.json", rows)
    figures.heat_map(out / "heat_map.png", summary)
    figures.roc_curves(out / "roc.png", scores)
    figures.strength_curves(out / "curves.png", curves, strengths)
    page = report.paragraphs(tables.page(result, rows), published.page(summary))
    also = ("benchmark.json", "heat_map.png", "roc.png", "curves.png")
    report.write(arguments, result, page, files=("run.json", "benchmark.md"), also=also)


Detected = tuple[
    engine.Found, engine.Found, dict[str, float], dict[tuple[str, str, str], list[float]]
]


def detect(arguments: argparse.Namespace, id_set: sets.IDSet) -> Detected:
    """Detections on one ID set: around its own flow by seed, and around retrained flows by flow.

    And the noise strengths that were chosen, and AUROC along lambda, around its own flow.
    """
    name, scorer, (train, held_out, _), tests, _ = id_set
    backgrounds, members = (further(arguments, kind, name) for kind in ("background", "member"))
    again = [flows.load(path) for of, path in arguments.retrained if of == name]
    if len(again) == 1:
        raise InputError(f"--retrained gives {name} one flow; expected two or more, or none.")
    around_again = [sets.retrained(id_set, flow) for flow in again]
    yours = dict(map(own_detector, arguments.detector or ()))
    cache = Cache(arguments.out / "scores")
    parts = [held_out, *(each.split.held_out for each in around_again)]
    images = [train, held_out, *map(score.turned, parts), *tests.values()]
    given = [encoders.load(path) for of, path in arguments.encoder if of == name]
    encoder, *others = scorer.encoder, *given

    def take_part(
        flow: flows.Flow, members: Sequence[flows.Flow], strengths: Mapping[str, float]
    ) -> dict[str, Detector]:
        further = {"backgrounds": backgrounds, "members": members, "others": others}
        known = roster(flow, encoder, strengths, train.shape[-1], **further)
        known |= {called: make(flow, encoder) for called, (make, _) in yours.items()}
        names = dict.fromkeys([*(arguments.detectors or known), *yours])
        of_others = {
            f"{kind}_{encoders.load(f).name}" for _, f in arguments.encoder for kind in TRY
        }
        asked = {*names, arguments.against, *(arguments.retrained_detectors or ())}
        if unknown := ", ".join(sorted(asked - set(known) - of_others)):
            raise InputError(
                f"there is no detector {unknown}; expected some of {', '.join(known)}."
            )
        return {called: known[called] for called in names if called in known}

    take_part(scorer.flow, members, dict.fromkeys(engine.FORMS, 0.0))  # refuses a wrong name
    encoder, *others = (engine.remembered(cache, name, each, images) for each in (encoder, *others))

    def around(
        cache: Cache, id_set: sets.IDSet, members: Sequence[flows.Flow], curves: bool
    ) -> tuple[engine.Found, dict[str, float], dict[str, score.Along]]:
        flow, seeds = id_set.scorer.flow, arguments.seeds if curves else 1
        bank = memory.build(encoder, id_set.split.train)
        state = id_set.scorer.state.replace(encoder=encoder, bank=bank)
        seen = engine.along(cache, id_set if curves else id_set._replace(tests={}), state)
        strengths = engine.strengths(seen)
        made_of = {"": strengths, "likelihood_ratio": backgrounds, "waic": members}
        made_of |= {f"{kind}_{o.name}": o for o in given for kind in TRY}
        made_of |= {called: source for called, (_, source) in yours.items()}
        chosen = take_part(flow, members, strengths)
        if not curves:
            asked = {*(arguments.retrained_detectors or chosen), arguments.against}
            chosen = {
                d: made
                for d, made in chosen.items()
                if d in asked and not d.startswith(WITHOUT_FLOW)
            }
        return engine.detect(cache, id_set, chosen, seeds, made_of), strengths, seen

    found, strengths, seen = around(cache, id_set, members, True)
    of_flows = {}
    for index, other in enumerate(around_again):
        own = Cache(arguments.out / "scores" / f"retrained_{index}")
        told = around(own, other, again[:index] + again[index + 1 :], False)[0]
        for called in found:
            if called in told or called.startswith(WITHOUT_FLOW):  # the same around every flow
                of_flows.setdefault(called, []).append(told.get(called, found[called])[0])
        forget_programs()
    return found, of_flows, strengths, engine.curves(id_set, seen)


def own_detector(word: str) -> tuple[str, tuple[Callable[..., Detector], bytes]]:
    """MODULE:NAME as the name, what makes the detector, and the module's source."""
    module_name, _, name = word.partition(":")
    module = importlib.import_module(module_name)
    return name, (getattr(module, name), pathlib.Path(module.__file__).read_bytes())


def importable(word: str) -> str:
    """MODULE:NAME, a function in a file, as the `type` of an option."""
    try:
        if not callable(own_detector(word)[1][0]):
            raise ValueError("it is no function")
    except (ImportError, AttributeError, ValueError, TypeError, OSError) as error:
        wanted = "MODULE:NAME, a function of (flow, encoder)"
        raise argparse.ArgumentTypeError(
            f"{word!r} cannot be used ({error}); expected {wanted}"
        ) from None
    return word


def further(arguments: argparse.Namespace, kind: str, name: str) -> list[flows.Flow]:
    """The flows given for an ID set; else the shipped one, beside the shipped scorer's alone."""
    given = [path for of, path in getattr(arguments, kind) if of == name]
    if not given and name not in dict(arguments.scorer + arguments.flow):
        given = [shipped for shipped in flows.shipped() if shipped == f"{name}_{kind}"]
    return [flows.load(path) for path in given]


if __name__ == "__main__":
    report.main(run, build_parser())
