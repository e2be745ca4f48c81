"""What the encoder buys: similarity alone and SPEM with each encoder and each size of the bank.

    python -m experiments.encoder_study --data DIRECTORY --imagenet32 FILE

For every ID set with a shipped scorer, around its flow: each encoder that can run offline, with
memory banks of 100 random training images up to all of them, lambda chosen anew on ID images alone
each time. Writes `report.json`, `report.md` and `sizes.png`. Embeddings are cached: run the same
command again to resume.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ecood.score
from ecood import encoders, memory, metrics
from ecood.batches import forget_programs, map_images
from ecood.encoders import Encoder
from ecood.images import hold_out
from ecood.score import SPEMState
from experiments import report
from experiments.benchmark import pictures, sets
from experiments.benchmark.cache import Cache, remembered

SIZES = (100, 300, 1_000, 3_000)  # and all


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.encoder_study", __doc__)
    add = parser.add_argument
    add("--data", default="embedded", help="auto, embedded, tfds or a path (default: embedded)")
    add("--imagenet32", help="an .npz file with a `test` array of 32x32 ImageNet crops")
    add("--id", nargs="+", choices=list(sets.OOD_OF), help="these ID sets only (default: all)")
    add(
        "--encoder",
        action="append",
        default=[],
        metavar="ID=FILE",
        help="one more encoder of an ID set, written by train_encoder; repeatable",
    )
    add("--limit", type=int, default=500, help="test images of each set at most (500)")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/encoder_study"),
        help="the report's folder (default: runs/encoder_study)",
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Embeds, tunes and scores with each encoder and size, and reports."""
    more = sets.by_id("--encoder", arguments.encoder)
    cache = Cache(arguments.out / "embeddings")
    known, missing = sets.load_all(
        arguments.data,
        arguments.imagenet32,
        arguments.id or ecood.score.shipped(),
        arguments.limit,
        ecood.score.load,
    )
    rows = []
    for id_set in known:
        files = [path for name, path in more if name == id_set.name]
        shipped, channels = id_set.scorer.encoder, id_set.train.shape[-1]
        for title, encoder in candidates(shipped, channels, files).items():
            print(f"{id_set.name}: {title}", flush=True)
            table = remembered(cache, id_set.name, encoder, id_set.everything)
            rows += [{"encoder": title, **row} for row in study(id_set, table)]
            forget_programs()
    result = {"rows": rows, "missing": [m._asdict() for m in missing], **report.identify(arguments)}
    out = arguments.out
    report.write_json(out / "report.json", result)
    text = markdown(result)
    report.write_text(out / "report.md", text)
    pictures.bank_sizes(out / "sizes.png", rows)
    print(text)
    print(f"wrote {out}/report.json, report.md and sizes.png")


def candidates(shipped: Encoder, channels: int, files: Sequence[str] = ()) -> dict[str, Encoder]:
    """The encoders that can run offline, by name: the shipped scorer's own first.

    Args:
      shipped: the encoder of the shipped scorer.
      channels: C of the images.
      files: more encoders, as `ecood.encoders.save` wrote them.
    """
    named = [shipped, *map(encoders.load, files)]
    if encoders.efficientnet_lite0_installed():
        named.append(encoders.efficientnet_lite0())
    named += [encoders.pixels(), encoders.random_features(jax.random.key(0), channels)]
    found: dict[str, Encoder] = {}
    for encoder in named:
        known = [encoders.identity(other) for other in found.values()]
        if (identity := encoders.identity(encoder)) in known:
            continue
        taken = encoder.name in found
        found[f"{encoder.name} {identity[:6]}" if taken else encoder.name] = encoder
    return found


def study(id_set: sets.IDSet, encoder: Encoder) -> list[dict[str, Any]]:
    """Both AUROCs of each pair at each size of the bank.

    Args:
      id_set: the images; around its scorer's flow, with its seed.
      encoder: the encoder.

    Returns:
      One row a pair and size: id, ood, bank, noise_strength, and {auroc, auroc_ci} under
      `similarity` and `spem`.
    """
    name, scorer, train, tests = id_set
    known, held_out = hold_out(train)
    key = jax.random.key(scorer.seed)
    detect = ecood.score.detection_path(scorer.flow, encoder)
    onwards = ecood.score.noise_path(scorer.flow)
    shuffled = np.random.default_rng(0).permutation(len(known))
    rows = []
    for size in [*(size for size in SIZES if size < len(known)), len(known)]:
        bank = memory.build(encoder, known[np.sort(shuffled[:size])])
        state = SPEMState(scorer.flow.variables, encoder.variables, bank, jnp.float32(0), None)
        state = ecood.score.tune(detect, onwards, state, key, held_out)
        seen = {which: map_images(detect, state, key, images=x) for which, x in tests.items()}
        for ood in id_set.oods:
            rows.append(
                {
                    "id": name,
                    "ood": ood,
                    "bank": size,
                    "noise_strength": float(state.noise_strength),
                    "similarity": _auroc(-seen[name].similarity, -seen[ood].similarity),
                    "spem": _auroc(seen[name].score, seen[ood].score),
                }
            )
    return rows


def _auroc(id_scores: np.ndarray, ood_scores: np.ndarray) -> dict[str, Any]:
    found = metrics.evaluate(id_scores, ood_scores)
    return {"auroc": found.auroc, "auroc_ci": list(found.auroc_ci)}


def markdown(result: Mapping[str, Any]) -> str:
    """The report as a page: one table a pair."""
    lines = ["# What the encoder buys", ""]
    lines += ["AUROC [95% interval] of similarity alone and of SPEM, by size of the bank.", ""]
    pairs = dict.fromkeys((row["id"], row["ood"]) for row in result["rows"])
    for id_name, ood_name in pairs:
        rows = [row for row in result["rows"] if (row["id"], row["ood"]) == (id_name, ood_name)]
        sizes = sorted({row["bank"] for row in rows})
        heads = [f"{size:,}" for size in sizes[:-1]] + [f"all {sizes[-1]:,}"]
        lines += [f"## {id_name} → {ood_name}", ""]
        lines += [f"| encoder | score | {' | '.join(heads)} |", "| --- " * (2 + len(sizes)) + "|"]
        for encoder in dict.fromkeys(row["encoder"] for row in rows):
            by_size = {row["bank"]: row for row in rows if row["encoder"] == encoder}
            for score, title in (("similarity", "similarity"), ("spem", "SPEM")):
                cells = [_cell(by_size[size][score]) for size in sizes]
                lines.append(f"| {encoder} | {title} | {' | '.join(cells)} |")
        lines.append("")
    lines += [f"Command: `{result['command']}`, git {result['git_revision']}, {result['date']}."]
    return "\n".join([*lines, ""])


def _cell(found: Mapping[str, Any]) -> str:
    low, high = found["auroc_ci"]
    return f"{found['auroc']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    report.main(run, build_parser())
