"""Trains a normalizing flow on one data set and writes it as one self-describing file.

    python -m experiments.train_flow --data embedded --name fashion_mnist --minutes 10

The run's folder holds checkpoints, `log.jsonl` (loss, held-out bits/dim, speed) and, at the end,
`flow.safetensors`, which `ecood.flows.load` reads, and `card.json`. Run the same command again to
resume an interrupted run: it ends with the same bits.
"""

import argparse
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecood import data, flows, splits, statistics, train
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
    add("--levels", type=int, help="L (default: 3, or as many as the images' sides are even)")
    add("--width", type=int, help="hidden channels of the networks (default: the flow's own)")
    dtypes = ("float32", "bfloat16")
    add("--dtype", choices=dtypes, help="what the networks compute in; parameters and "
        "log-determinants are float32 in any case (default: float32)")  # fmt: skip
    add("--batch-size", type=int, default=64, help="images a step, over all devices (64)")
    add("--learning-rate", type=float, default=1.5e-3, help="Adam's peak rate (0.0015)")
    add("--mutate", type=float, metavar="RATE", help="train a background flow: this share of all "
        "values is random (see ecood.baselines.likelihood_ratio)")  # fmt: skip
    return parser


def add_shared(parser: argparse.ArgumentParser, minutes: float, out: str) -> None:
    """What training takes whatever the model is."""
    add = parser.add_argument
    add("--data", default="auto", help="auto, embedded, tfds or a path (default: auto)")
    add("--name", default="cifar10", help="data set, e.g. cifar10, fashion_mnist, svhn_cropped")
    add("--limit", type=int, help="use the first LIMIT images of each split only")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=minutes, help=f"to train ({minutes})")
    length.add_argument("--steps", type=int, help="to train, instead of minutes")
    add("--seed", type=int, default=0, help="of the training (0)")
    add("--split-seed", type=int, default=0, help="of the draw of the held-out images; the same "
        "for all models of one detector (0)")  # fmt: skip
    add("--calibration", type=float, default=0.0, metavar="SHARE", help="leave this share of the "
        "images out for calibration, as ecood.splits.draw does (0)")  # fmt: skip
    add("--out", type=pathlib.Path, help=f"the run's folder (default: {out})")


def shared(arguments: argparse.Namespace, images: np.ndarray) -> tuple[splits.Split, dict]:
    """The split of the images, and the settings of `TrainConfig`, that the command line gives."""
    split = splits.draw(images, seed=arguments.split_seed, calibration=arguments.calibration)
    if arguments.steps is not None:
        arguments.minutes = None
    return split, {name: getattr(arguments, name) for name in ("steps", "minutes", "seed")}


def build_module(arguments: argparse.Namespace, image_shape: tuple[int, int, int]) -> Any:
    """The flow that the command line asks for; each option sets the attribute of its name.

    Raises:
      InputError: for an option of which the flow has no attribute.
    """
    make, options = flows.MODULES[arguments.flow], {}
    for name in ("depth", "levels", "width", "dtype"):
        value, known = getattr(arguments, name), name in make.__dataclass_fields__
        if value is not None and not known:
            raise InputError(
                f"{arguments.flow} has no attribute {name}; leave --{name} {value} out or choose "
                "another --flow."
            )
        if value is None and name == "levels" and known:
            value = train.levels(image_shape)
        if value is not None:
            options[name] = getattr(jnp, value) if name == "dtype" else value
    return make(image_shape, **options)


def run(arguments: argparse.Namespace) -> None:
    """Trains, evaluates, writes."""
    started = time.perf_counter()
    name = arguments.name
    images = data.load_images(arguments.data, name, "train", limit=arguments.limit)
    test = data.load_images(arguments.data, name, "test", limit=arguments.limit)
    split, settings = shared(arguments, images)
    known, rate = split, arguments.mutate
    if rate is not None:
        known = background.mutate_split(split, rate, arguments.seed)
    module = build_module(arguments, images.shape[1:])
    sizes = {"batch_size": arguments.batch_size, "learning_rate": arguments.learning_rate}
    config = train.TrainConfig(**sizes, **settings)
    out = arguments.out or pathlib.Path("runs") / f"{name}_{arguments.flow.lower()}"
    flip = name in MIRRORED
    with training(f"training on {name}") as show:
        flow, fitted = train.fit_flow(module, known, config, out / "run", flip=flip, progress=show)
    flow = flow.replace(trained_on=splits.remember(split.train))  # not what was mutated
    counts = {"train": len(split.train), "held_out": len(split.held_out), "test": len(test)}
    parts = {"train": split.train[:2000], "held_out": split.held_out, "test": test}
    bits = {
        part: map_images(statistics.bits, flow, jax.random.key(0), images=x)
        for part, x in parts.items()
    }
    card = report.identify(arguments) | {
        "data": {"name": name} | counts,
        "flow": flow.architecture,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(flow.variables["params"])),
        "steps": fitted.steps,
        "seconds": round(time.perf_counter() - started, 1),
        "bits_per_dim": {part: round(float(np.mean(b)), 4) for part, b in bits.items()},
    }
    metadata = {"bits_per_dim": str(card["bits_per_dim"]["test"]), "command": card["command"]}
    flows.save(out / "flow.safetensors", flow, metadata)
    report.write_json(out / "card.json", card)
    print(f"{out / 'flow.safetensors'}: {card['bits_per_dim']} bits/dim")


if __name__ == "__main__":
    report.main(run, build_parser())
