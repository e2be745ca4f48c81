"""Trains the compact encoder without labels on one data set's ID images.

    python -m experiments.train_encoder --data embedded --name fashion_mnist --minutes 6

Writes `encoder.safetensors`, which `ecood.encoders.load` reads, and `card.json`. Run the same
command again to resume an interrupted run. Where the test images have labels, the card reports
k-NN accuracy; labels serve that report and nothing else.
"""

import argparse
import pathlib
import time

import jax
import numpy as np

from ecood import data, encoders, memory, recipes
from ecood.errors import InputError
from ecood.images import hold_out
from experiments import report

NEIGHBOURS = 20
CHUNK = 256  # queries whose products with the bank are in memory at a time


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.train_encoder", __doc__)
    add = parser.add_argument
    add("--data", default="auto", help="auto, embedded, tfds or a path (default: auto)")
    add("--name", default="cifar10", help="data set, e.g. cifar10, fashion_mnist, svhn_cropped")
    add("--limit", type=int, help="use the first LIMIT training images only")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=None, help="train about this long (6)")
    length.add_argument("--steps", type=int, default=None, help="train for this many steps")
    add("--seed", type=int, default=0, help="of everything random (0)")
    add("--out", type=pathlib.Path, help="the run's folder (default: runs/<name>_encoder)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains, evaluates, writes."""
    images = data.load_images(arguments.data, arguments.name, "train", limit=arguments.limit)
    print(f"{arguments.name}: {len(images)} training images", flush=True)
    minutes = report.minutes(arguments, 6.0)
    out = arguments.out or pathlib.Path("runs") / f"{arguments.name}_encoder"
    started = time.perf_counter()
    encoder = recipes.train_encoder(
        images, minutes, out / "run", steps=arguments.steps, seed=arguments.seed
    )
    card = report.identify(arguments) | {
        "data": {"name": arguments.name, "train": len(images)},
        "encoder": encoder.architecture,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(encoder.variables)),
        "seconds": round(time.perf_counter() - started, 1),
        "knn_accuracy": knn_accuracy(encoder, images, arguments),
    }
    encoders.save(out / "encoder.safetensors", encoder, {"command": card["command"]})
    report.write_json(out / "card.json", card)
    print(f"{out / 'encoder.safetensors'}: k-NN accuracy {card['knn_accuracy']}")


def knn_accuracy(
    encoder: encoders.Encoder, images: np.ndarray, arguments: argparse.Namespace
) -> float | None:
    """Share of test images whose 20 nearest training images agree on the right label."""
    source = (arguments.data, arguments.name)
    try:
        labels = data.load_labels(*source, "train", limit=arguments.limit)
        test_labels = data.load_labels(*source, "test")
        test = data.load_images(*source, "test")
    except InputError:
        return None
    train, _ = hold_out(images)
    bank = np.asarray(memory.build(encoder, train))
    queries = np.asarray(memory.build(encoder, test))
    k = min(NEIGHBOURS, len(bank))
    predicted = []
    for start in range(0, len(queries), CHUNK):
        products = queries[start : start + CHUNK] @ bank.T
        nearest = np.argpartition(products, len(bank) - k, axis=1)[:, -k:]
        predicted += [np.bincount(row).argmax() for row in labels[: len(train)][nearest]]
    return round(float(np.mean(predicted == test_labels)), 4)


if __name__ == "__main__":
    report.main(run, build_parser())
