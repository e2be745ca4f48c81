"""Densities of several families, trained for equal CPU time, and the likelihood paradox on each.

    python -m experiments.densities --data DIRECTORY --imagenet32 FILE --ood FILE --minutes 10 40

For every in-distribution (ID) set with a shipped scorer: trains each density on what the scorer's
bank holds, and holds out the scorer's held-out images. CPU time is the process's, all cores
together, without compiling and evaluating: a busy machine makes a run longer, its budget no
smaller. The rate is constant up to the first budget, and from there on half a cosine's over the
steps that the last takes; at each budget the averaged parameters are evaluated. Then every density
scores the pairs, with the scorer's encoder and images in the bank. Writes `report.json`,
`report.md` and `densities.png`. The same command resumes, and a larger last budget continues
from a first one (10, then 10 40).
"""

import argparse
from collections.abc import Mapping
from typing import Any

from ecood import encoders, flows, pairs, score
from ecood.batches import forget_programs
from ecood.cache import Cache
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.evaluation import engine, sets
from ecood.evaluation.roster import Guests
from ecood.flows import Flow
from experiments import figures, report
from experiments.densities.training import RECIPES, trained
from experiments.train_flow import MIRRORED

COLUMNS = {
    "likelihood": "likelihood, b",
    "spem_paper": "b′, the paper's form",
    "code": "b − L",
    "similarity": "similarity",
    "spem": "SPEM",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    names = "experiments.densities", __doc__, "runs/densities"
    images = "limit", "imagenet32", "id", "ood"
    parser = report.parser(*names, *images, data="embedded", limit=500)
    add = parser.add_argument
    what = "these densities only (default: all)"
    add("--density", nargs="+", choices=list(RECIPES), default=list(RECIPES), help=what)
    what = "CPU minutes after which a density is evaluated, ascending (default: 10)"
    add("--minutes", nargs="+", type=float, default=[10.0], help=what)
    add("--batch-size", type=int, default=32, help="images a step (default: 32)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains, scores, and reports after each ID set."""
    minutes, out = arguments.minutes, arguments.out
    if minutes != sorted({*minutes}) or minutes[0] <= 0:
        raise InputError(f"--minutes is {minutes}; expected positive numbers, ascending.")
    source, names = (arguments.data, arguments.imagenet32), arguments.id or score.shipped()
    known, missing = sets.load_all(*source, names, arguments.limit, ood=arguments.ood)
    table, rows = [], []
    for id_set in known:
        name, scorer, split, tests, _ = id_set
        images = [*split[:2], score.turned(split.held_out), *tests.values()]
        encoder = engine.remembered(Cache(out / "scores"), name, scorer.encoder, images)
        for density in arguments.density:
            labels, folder = {"id": name, "density": density}, out / name / density
            options = {"flip": name in MIRRORED, "batch_size": arguments.batch_size}
            found = trained(density, split, minutes, folder, **options)
            table += [labels | row for row in found]
            flow = flows.load(folder / f"{minutes[-1]:g}.safetensors")
            cache = Cache(out / "scores" / density)
            rows += [labels | row for row in study(id_set, flow, encoder, cache)]
            forget_programs()
        result = {"trained": table, "rows": rows, "missing": missing}
        result["notes"] = {each.name: each.notes for each in known}
        figures.densities(out / "densities.png", table, rows)
        done = f"{name}: done"
        report.write(arguments, result, page(result), also=["densities.png"], printed=done)


def study(id_set: sets.IDSet, flow: Flow, encoder: Encoder, cache: Cache) -> list[dict[str, Any]]:
    """A row a pair: each column's metrics around the flow, lambda chosen on ID images alone."""
    tables = {encoders.identity(id_set.scorer.encoder): encoder}
    around = sets.with_flow(id_set, flow)
    found = engine.around(cache, around, tables, Guests(), engine.CURVES, 1, curves=False).found
    rows = pairs.rows(engine.by_pair(id_set, found | engine.parts(found["spem"])))
    return [{"ood": o} | {r["detector"]: r for r in rows if r["ood"] == o} for o in id_set.oods]


def page(result: Mapping[str, Any]) -> list[str]:
    """The report as Markdown lines."""
    blocks = ["# Densities for equal CPU time, and the paradox on each"]
    blocks += [f"{name}: {note}" for name, notes in result["notes"].items() for note in notes]
    header = ["ID set", "density", "CPU minutes", "parameters", "steps", "images seen"]
    header += ["images/CPU s scored", "bits/dim, training images", "held out"]
    made = []
    for r in result["trained"]:
        counts = (r["parameters"], r["steps"], r["steps"] * r["batch_size"])
        made.append([r["id"], r["density"], f"{r['minutes']:g}", *(f"{n:,}" for n in counts)])
        made[-1] += [f"{r['images_per_second']:.0f}", f"{r['train']:.3f}", f"{r['held_out']:.3f}"]
    blocks += [report.table(header, made), "AUROC [95% interval] after the largest budget."]
    scored = []
    for r in sorted(result["rows"], key=lambda r: (r["id"], r["ood"])):
        cells = [report.estimate(r[name]["auroc"], r[name]["auroc_ci"]) for name in COLUMNS]
        scored.append([f"{r['id']} → {r['ood']}", r["density"], *cells])
    return report.paragraphs(*blocks, report.table(["pair", "density", *COLUMNS.values()], scored))


if __name__ == "__main__":
    report.main(run, build_parser())
