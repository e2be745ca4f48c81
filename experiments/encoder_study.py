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
from ecood.batches import map_images
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.images import hold_out
from ecood.score import SPEMState, turned
from experiments import report
from experiments.benchmark import pictures, sets
from experiments.benchmark.cache import Cache, digest

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
    more = [_name_and_file(word) for word in arguments.encoder]
    cache = Cache(arguments.out / "embeddings")
    rows, missing = [], []
    for name in arguments.id or ecood.score.shipped():
        try:
            images = sets.load_id(arguments.data, name, arguments.limit)
            scorer = ecood.score.load(name)
        except InputError as error:
            missing += [sets.Missing(name, ood, str(error)) for ood in sets.OOD_OF[name]]
            continue
        tests, absent = sets.load_tests(
            arguments.data, arguments.imagenet32, name, images.test, arguments.limit
        )
        missing += absent
        if len(tests) == 1:
            continue
        for title, encoder in candidates(
            scorer.encoder, images.train.shape[-1], [path for of, path in more if of == name]
        ).items():
            print(f"{name}: {title}", flush=True)
            table = _remembered(cache, name, title, encoder, images.train, tests)
            rows += [{"encoder": title, **row} for row in study(scorer, table, images.train, tests)]
    if not rows:
        raise InputError(f"no pair is at hand: {missing[0].reason}")
    result = {"rows": rows, "missing": [m._asdict() for m in missing], **report.identify(arguments)}
    out = arguments.out
    report.write_json(out / "report.json", result)
    text = markdown(result)
    report.write_text(out / "report.md", text)
    pictures.bank_sizes(out / "sizes.png", rows)
    print(text)
    print(f"wrote {out}/report.json, report.md and sizes.png")


def _name_and_file(word: str) -> tuple[str, str]:
    name, equals, path = word.partition("=")
    if not equals or name not in sets.OOD_OF:
        raise InputError(
            f"--encoder is {word!r}; expected ID=FILE with ID one of {', '.join(sets.OOD_OF)}."
        )
    return name, path


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


def study(
    scorer: ecood.score.Scorer,
    encoder: Encoder,
    train: np.ndarray,
    tests: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Both AUROCs of each pair at each size of the bank.

    Args:
      scorer: whose flow and noise seed are used.
      encoder: the encoder.
      train: uint8 [N, H, W, C], the ID training images; `hold_out` splits them.
      tests: test images by set, the ID set first.

    Returns:
      One row a pair and size: id, ood, bank, noise_strength, and {auroc, auroc_ci} under
      `similarity` and `spem`.
    """
    known, held_out = hold_out(train)
    key = jax.random.key(scorer.seed)
    detect = ecood.score.detection_path(scorer.flow, encoder)
    onwards = ecood.score.noise_path(scorer.flow)
    shuffled = np.random.default_rng(0).permutation(len(known))
    name, *oods = tests
    rows = []
    for size in [*(size for size in SIZES if size < len(known)), len(known)]:
        bank = memory.build(encoder, known[np.sort(shuffled[:size])])
        state = SPEMState(scorer.flow.variables, encoder.variables, bank, jnp.float32(0), None)
        state = ecood.score.tune(detect, onwards, state, key, held_out)
        seen = {which: map_images(detect, state, key, images=x) for which, x in tests.items()}
        for ood in oods:
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


def _remembered(
    cache: Cache,
    name: str,
    title: str,
    encoder: Encoder,
    train: np.ndarray,
    tests: Mapping[str, np.ndarray],
) -> Encoder:
    """The encoder with all embeddings that will be asked for, kept on disk."""
    everything = np.concatenate([train, turned(hold_out(train)[1]), *tests.values()])
    with report.progress_bar(len(everything), f"{name}: {title}") as bar:

        def embed() -> np.ndarray:
            return map_images(
                encoder.embed, encoder.variables, images=everything, progress=bar.update
            )

        identity = encoders.identity(encoder)
        key = {"encoder": identity, "images": digest(everything)}
        embeddings, _ = cache.get(f"{name}/{identity}", key, embed)
    return encoders.remembered(encoder, everything, embeddings=embeddings)


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
