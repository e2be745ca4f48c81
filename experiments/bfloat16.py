"""What bfloat16 changes: the shipped scorers with their flows' networks in it and in float32.

    python -m experiments.bfloat16 --data DIRECTORY

Images, noise and parameters are the same; only the coupling networks compute in bfloat16.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats

from ecood import data, flows, metrics, score
from ecood.errors import InputError
from ecood.evaluation import sets
from ecood.score import unseen
from experiments import report

ID = ("cifar10", "svhn_cropped", "fashion_mnist", "mnist")
HEADER = ["ID → OOD", "images", "mean difference, bits/dim", "largest", "Spearman of bits/dim"]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    names = "experiments.bfloat16", __doc__, "runs/bfloat16"
    parser = report.parser(*names, "limit", data="embedded", limit=500)
    add, what = parser.add_argument, "these ID sets only (default: all)"
    add("--id", nargs="+", choices=ID, default=ID, help=what)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Scores each pair twice and reports."""
    rows, missing, notes = [], [], []
    for name in arguments.id:
        scorer, ood = score.load(name), sets.OOD_OF[name][0]
        try:
            known = data.load_images(arguments.data, name, "test", limit=arguments.limit)
            strange = sets.load_ood(arguments.data, None, ood, known.shape[1:], arguments.limit)
            known = unseen.fresh(known, scorer, name, notes)
            strange = unseen.fresh(strange, scorer, ood, notes)
        except InputError as error:
            missing.append({"id": name, "ood": ood, "reason": str(error)})
            continue
        rows.append({"id": name, "ood": ood, **compare(scorer, known, strange)})
    told = ["{id} → {ood} is missing: {reason}".format(**each) for each in missing]
    if not rows:
        raise InputError(f"no pair can be run: {'; '.join(told)}")
    result = {"rows": rows, "missing": missing, "notes": notes}
    report.write(arguments, result, report.paragraphs(page(rows), *notes, *told))


def compare(scorer: score.Scorer, id_images: np.ndarray, ood_images: np.ndarray) -> dict[str, Any]:
    """The scorer with its flow in either precision; images uint8 [N, H, W, C]."""
    flow, bits, auroc = scorer.flow, {}, {}
    for dtype in ("float32", "bfloat16"):
        each = flows.bind(flow.density.clone(dtype=jnp.dtype(dtype)), flow.variables)
        now = dataclasses.replace(scorer, state=scorer.state.replace(flow=each))
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


def page(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table."""
    body = []
    for row in rows:
        pair, images = f"{row['id']} → {row['ood']}", " + ".join(map(str, row["images"]))
        told = f"{row['mean']:.5f}", f"{row['largest']:.4f}", f"{row['spearman']:.6f}"
        body.append([pair, images, *told, *(f"{auroc:.4f}" for auroc in row["auroc"].values())])
    return report.table([*HEADER, "SPEM AUROC, float32", "bfloat16"], body)


if __name__ == "__main__":
    report.main(run, build_parser())
