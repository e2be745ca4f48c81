"""Trains the compact encoder without labels on one data set's ID images.

    python -m experiments.train_encoder --data embedded --name fashion_mnist --minutes 6

Writes `encoder.safetensors`, which `ecood.encoders.load` reads, and `card.json`; the same command
resumes. Where the images have labels, the card's k-NN accuracy is all that they serve.
"""

import argparse
import pathlib
import time

from ecood import data, encoders, models, splits, train
from ecood.encoders import knn
from ecood.errors import InputError
from ecood.progress import training
from experiments import report
from experiments.train_flow import add_shared, shared


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.train_encoder", __doc__)
    add_shared(parser, minutes=6, out="runs/<name>_encoder")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains, evaluates, writes."""
    started = time.perf_counter()
    source, limit = (arguments.data, arguments.name), arguments.train_limit
    images = data.load_images(*source, "train", limit=limit)
    split, settings = shared(arguments, images)
    config = train.encoder_config(len(split.train), **settings)
    out = arguments.out or pathlib.Path("runs") / f"{arguments.name}_encoder"
    with training(f"training on {arguments.name}") as progress:
        encoder, fitted = train.fit_encoder(split, config, out / "run", progress=progress)
    try:
        labels = data.load_labels(*source, "train", limit=limit)
        test = data.load_images(*source, "test"), data.load_labels(*source, "test")
        label_of = dict(zip(splits.fingerprints(images), labels, strict=True))
        labels = [label_of[image] for image in splits.fingerprints(split.train)]
        accuracy = knn.knn_accuracy(encoder, (split.train, labels), test)
    except InputError:  # no labels
        accuracy = None
    card = report.identify(arguments) | {
        "data": {"name": arguments.name, "train": len(split.train)},
        "encoder": encoder.name,
        "parameters": models.size(encoder.variables),
        "steps": fitted.steps,
        "seconds": round(time.perf_counter() - started, 1),
        "knn_accuracy": accuracy,
    }
    encoders.save(out / "encoder.safetensors", encoder, {"command": card["command"]})
    report.write_json(out / "card.json", card)
    print(f"{out / 'encoder.safetensors'}: k-NN accuracy {accuracy}")


if __name__ == "__main__":
    report.main(run, build_parser())
