"""Trains a normalizing flow on one data set and writes it as one self-describing file.

    python -m experiments.train_flow --data embedded --name fashion_mnist --minutes 10

The run's folder holds checkpoints, `log.jsonl` (loss, held-out bits/dim, speed) and, at the end,
`flow.safetensors`, which `ecood.flows.load` reads, and `card.json`. Run the same command again to
resume an interrupted run: it ends with the same bits.
"""

import argparse
import pathlib
import time

import jax
import numpy as np

from ecood import data, flows, models, splits, statistics, train
from ecood.baselines import background
from ecood.batches import map_images
from ecood.errors import InputError
from ecood.progress import training
from experiments import report

MIRRORED = ("cifar10", "cifar100", "fashion_mnist", "imagenet32", "celeb_a")  # flips fit these


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.train_flow", __doc__)
    add_shared(parser, minutes=30, out="runs/<name>_<flow>")
    add = parser.add_argument
    add("--flow", choices=tuple(flows.MODULES), default="Glow", help="which flow (default: Glow)")
    add("--depth", type=int, help="K, steps of flow a level (default: the flow's own)")
    add("--levels", type=int, help="L (default: 3, or as many as can halve the images' sides)")
    add("--width", type=int, help="hidden channels of the networks (default: the flow's own)")
    what = "what the networks compute in; all else is float32 (default: float32)"
    add("--dtype", choices=("float32", "bfloat16"), help=what)
    what = "images a step, over all devices (16 on a CPU, 64 on an accelerator)"
    add("--batch-size", type=int, help=what)
    add("--learning-rate", type=float, default=1.5e-3, help="the peak rate (0.0015)")
    what = "train a background flow: this share of all values is random"
    add("--mutate", type=float, metavar="RATE", help=what)
    what = "with --mutate: the factor of the sum of squared kernels in the loss (0)"
    add("--weight-decay", type=float, default=0.0, help=what)
    return parser


def add_shared(parser: argparse.ArgumentParser, minutes: float, out: str) -> None:
    """What training takes whatever the model is."""
    add = parser.add_argument
    add("--data", default="auto", help="auto, embedded, tfds, hf:OWNER/NAME or a path (auto)")
    add("--name", default="cifar10", help="data set, e.g. cifar10, fashion_mnist, svhn_cropped")
    what = "train on the first N training images only"
    add("--train-limit", type=int, metavar="N", help=what)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=minutes, help=f"to train ({minutes})")
    length.add_argument("--steps", type=int, help="to train, instead of minutes")
    add("--seed", type=int, default=0, help="of the training (0)")
    what = "of the draw of the held-out images; the same for all models of one detector (0)"
    add("--split-seed", type=int, default=0, help=what)
    what = "a flow: hold out what it has not seen, so that one detector can have both"
    add("--beside", metavar="FLOW", help=what)
    what = "leave this share of the images out for calibration, as ecood.splits.draw does (0)"
    add("--calibration", type=float, default=0.0, metavar="SHARE", help=what)
    add("--out", type=pathlib.Path, help=f"the run's folder (default: {out})")


def shared(arguments: argparse.Namespace, images: np.ndarray) -> tuple[splits.Split, dict]:
    """The split of the images, and the settings of `TrainConfig`, that the command line gives."""
    used = flows.load(arguments.beside).trained_on if arguments.beside else None
    seed, share = arguments.split_seed, arguments.calibration
    split = splits.draw(images, seed=seed, calibration=share, used=used)
    if arguments.steps is not None:
        arguments.minutes = None
    return split, {name: getattr(arguments, name) for name in ("steps", "minutes", "seed")}


def run(arguments: argparse.Namespace) -> None:
    """Trains, evaluates, writes."""
    started, name = time.perf_counter(), arguments.name
    images = data.load_images(arguments.data, name, "train", limit=arguments.train_limit)
    test = data.load_images(arguments.data, name, "test")
    test = splits.new_images(test, splits.remember(images))  # a folder may have no other ones
    split, settings = shared(arguments, images)
    if arguments.mutate is None and arguments.weight_decay:
        raise InputError("--weight-decay is for background flows; give --mutate RATE too.")
    options = {name: getattr(arguments, name) for name in ("depth", "levels", "width", "dtype")}
    options = {name: value for name, value in options.items() if value is not None}
    module = train.flow_module(arguments.flow, images.shape[1:], **options)
    if arguments.batch_size is None:
        arguments.batch_size = train.flow_batch_size(len(split.train))
    settings |= {"batch_size": arguments.batch_size, "learning_rate": arguments.learning_rate}
    config = train.TrainConfig(**settings)
    out = arguments.out or pathlib.Path("runs") / f"{name}_{arguments.flow.lower()}"
    with training(f"training on {name}") as show:
        more = {"flip": name in MIRRORED, "progress": show}
        if arguments.mutate is None:
            flow, fitted = train.fit_flow(module, split, config, out / "run", **more)
        else:
            more["weight_decay"] = arguments.weight_decay
            flow, fitted = background.train_background(
                module, split, arguments.mutate, config, out / "run", **more
            )
    counts = {"train": len(split.train), "held_out": len(split.held_out), "test": len(test)}
    parts = {"train": split.train[:2000], "held_out": split.held_out, "test": test}
    key, bits = jax.random.key(0), {}
    for part, x in parts.items():
        if not len(x):
            continue
        each = map_images(statistics.bits, flow, key, images=x)
        bits[part] = round(float(np.mean(each)), 4)
    card = report.identify(arguments) | {
        "data": {"name": name} | counts,
        "flow": flow.architecture,
        "parameters": models.size(flow.variables),
        "steps": fitted.steps,
        "seconds": round(time.perf_counter() - started, 1),
        "bits_per_dim": bits,
    }
    told, path = {}, out / "flow.safetensors"
    if "test" in bits:
        told["bits_per_dim"] = str(bits["test"])
    flows.save(path, flow, told | {"command": card["command"]})
    report.write_json(out / "card.json", card)
    print(f"{path}: {bits} bits/dim")


if __name__ == "__main__":
    report.main(run, build_parser())
