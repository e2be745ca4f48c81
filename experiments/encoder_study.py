"""What the encoder buys: similarity alone and SPEM with each encoder and each size of the bank.

    python -m experiments.encoder_study --data DIRECTORY --imagenet32 FILE

For every ID set with a shipped scorer, around its flow: each encoder that can run offline, with
memory banks of 100 random training images up to all, lambda chosen anew on ID images alone. Writes
`report.json`, `report.md` and `sizes.png`; embeddings are cached: the same command resumes.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ecood import encoders, memory, metrics, score
from ecood.batches import forget_programs
from ecood.cache import Cache
from ecood.detector import detections
from ecood.encoders import Encoder
from ecood.evaluation import engine, sets
from experiments import figures, report

SIZES = (100, 300, 1_000, 3_000)  # and all


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    names = "experiments.encoder_study", __doc__, "runs/encoder_study"
    parser = report.parser(*names, "limit", "imagenet32", "id", data="embedded", limit=500)
    what = "one more encoder of an ID set, written by train_encoder; repeatable"
    given = {"type": report.of_id, "action": "append", "default": []}
    parser.add_argument("--encoder", metavar="ID=FILE", help=what, **given)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Embeds, tunes and scores with each encoder and size, and reports."""
    cache = Cache(arguments.out / "embeddings")
    source, names = (arguments.data, arguments.imagenet32), arguments.id or score.shipped()
    id_sets, missing = sets.load_all(*source, names, arguments.limit)
    rows = []
    for id_set in id_sets:
        name, scorer, (train, held_out, _), tests, _ = id_set
        images = [train, held_out, score.turned(held_out), *tests.values()]
        given = [encoders.load(path) for of, path in arguments.encoder if of == name]
        known = encoders.offline(train.shape[-1], [scorer.encoder, *given])
        for title, encoder in known.items():
            print(f"{name}: {title}", flush=True)
            table = engine.remembered(cache, name, encoder, images)
            rows += [{"encoder": title, **row} for row in study(id_set, table)]
            forget_programs()
    result = {"rows": rows, "missing": missing, "notes": {name: n for name, *_, n in id_sets}}
    figures.bank_sizes(arguments.out / "sizes.png", rows)
    report.write(arguments, result, page(result), also=["sizes.png"])


def study(id_set: sets.IDSet, encoder: Encoder) -> list[dict[str, Any]]:
    """A row a pair and size of the bank, around the scorer's flow, with its seed."""
    name, scorer, (train, held_out, _), tests, _ = id_set
    key, spem = jax.random.key(scorer.seed), score.spem(scorer.flow, encoder)
    shuffled, rows = np.random.default_rng(0).permutation(len(train)), []
    for size in [*(size for size in SIZES if size < len(train)), len(train)]:
        bank = memory.build(encoder, train[np.sort(shuffled[:size])])
        state = score.tune(scorer.state.replace(encoder=encoder, bank=bank), key, held_out)
        told = {which: detections(spem, state, key, x) for which, x in tests.items()}
        for ood in id_set.oods:
            pair, strength = (told[name], told[ood]), float(state.noise_strength)
            row = {"id": name, "ood": ood, "bank": size, "noise_strength": strength}
            row["similarity"] = metrics.evaluate(*(-each.similarity for each in pair))._asdict()
            row["spem"] = metrics.evaluate(*(each.score for each in pair))._asdict()
            rows.append(row)
    return rows


def page(result: Mapping[str, Any]) -> list[str]:
    """The report as Markdown lines: one table a pair."""
    blocks = ["# What the encoder buys"]
    blocks += ["AUROC [95% interval] of similarity alone and of SPEM, by size of the bank."]
    blocks += [f"{name}: {note}" for name, notes in result["notes"].items() for note in notes]
    for pair in dict.fromkeys((row["id"], row["ood"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["id"], row["ood"]) == pair]
        *sizes, whole = sorted({row["bank"] for row in rows})
        header = ["encoder", "score", *(f"{size:,}" for size in sizes), f"all {whole:,}"]
        body = {}
        for row in rows:
            for what in ("similarity", "spem"):
                cells = body.setdefault((row["encoder"], report.title(what)), [])
                cells.append(report.estimate(row[what]["auroc"], row[what]["auroc_ci"]))
        table = report.table(header, [[*names, *cells] for names, cells in body.items()])
        blocks += [f"## {pair[0]} → {pair[1]}", table]
    return report.paragraphs(*blocks)


if __name__ == "__main__":
    report.main(run, build_parser())
