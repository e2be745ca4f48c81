"""What bfloat16 changes: the shipped scorers with their flows' networks in it and in float32.

    python -m experiments.bfloat16 --data DIRECTORY

The same images, the same noise, the same parameters; only the coupling networks compute in
bfloat16. Prints a table and writes `report.json`.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

import ecood.score
from ecood import flows, metrics
from experiments import report
from experiments.benchmark import sets

ID = ("cifar10", "svhn_cropped", "fashion_mnist")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.bfloat16", __doc__)
    add = parser.add_argument
    add("--data", default="embedded", help="auto, embedded, tfds or a path (default: embedded)")
    add("--id", nargs="+", choices=ID, default=ID, help="these ID sets only (default: all)")
    add("--limit", type=int, default=500, help="test images of each set at most (500)")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/bfloat16"),
        help="the report's folder (default: runs/bfloat16)",
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Scores each pair twice and reports."""
    rows = []
    for name in arguments.id:
        scorer, ood = ecood.score.load(name), sets.OOD_OF[name][0]
        known = sets.load_test(arguments.data, name, arguments.limit)
        strange = sets.load_ood(arguments.data, None, ood, known.shape[1:], arguments.limit)
        rows.append({"id": name, "ood": ood, **compare(scorer, known, strange)})
    report.write_json(arguments.out / "report.json", {"rows": rows, **report.identify(arguments)})
    print(markdown(rows))


def compare(
    scorer: ecood.score.Scorer, id_images: np.ndarray, ood_images: np.ndarray
) -> dict[str, Any]:
    """The scorer as it is against itself with its flow in bfloat16.

    Args:
      scorer: one around a flow of `ecood.flows` with a dtype.
      id_images: uint8 [N, H, W, C].
      ood_images: uint8 [M, H, W, C].

    Returns:
      `images`, N and M; of the bits/dim of all images, unperturbed: `mean` and `largest`, of the
      absolute difference, and `spearman`; of SPEM: `auroc` by dtype.
    """
    architecture = scorer.flow.architecture | {"dtype": "bfloat16"}
    half = flows.bind(flows.build(architecture), scorer.flow.variables)
    bits, auroc = {}, {}
    for dtype, flow in (("float32", scorer.flow), ("bfloat16", half)):
        now = dataclasses.replace(scorer, flow=flow)
        known, strange = now.detect(id_images), now.detect(ood_images)
        bits[dtype] = np.concatenate([known.bits, strange.bits])
        auroc[dtype] = metrics.auroc(known.score, strange.score)
    difference = np.abs(bits["bfloat16"] - bits["float32"])
    return {
        "images": [len(id_images), len(ood_images)],
        "mean": float(difference.mean()),
        "largest": float(difference.max()),
        "spearman": float(stats.spearmanr(*bits.values()).statistic),
        "auroc": auroc,
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table."""
    lines = [
        "| ID → OOD | images | mean difference, bits/dim | largest | Spearman of bits/dim "
        "| SPEM AUROC, float32 | bfloat16 |",
        "| --- " * 7 + "|",
    ]
    for row in rows:
        counts = " + ".join(map(str, row["images"]))
        auroc = " | ".join(f"{value:.4f}" for value in row["auroc"].values())
        lines.append(
            f"| {row['id']} → {row['ood']} | {counts} | {row['mean']:.5f} | {row['largest']:.4f} "
            f"| {row['spearman']:.6f} | {auroc} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    report.main(run, build_parser())
