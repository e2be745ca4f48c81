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
import jax.numpy as jnp
import numpy as np

from ecood import data, flows, recipes
from ecood.baselines.background import mutate
from ecood.batches import map_images
from ecood.errors import InputError
from ecood.images import hold_out
from ecood.tasks import flow_task
from ecood.train import Fit, TrainConfig
from experiments import report

MIRRORED = ("cifar10", "cifar100", "fashion_mnist", "imagenet32", "celeb_a")  # flips fit these


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.train_flow", __doc__)
    add = parser.add_argument
    add("--data", default="auto", help="auto, embedded, tfds or a path (default: auto)")
    add("--name", default="cifar10", help="data set, e.g. cifar10, fashion_mnist, svhn_cropped")
    add("--limit", type=int, help="use the first LIMIT images of each split only")
    add("--flow", choices=tuple(flows.MODULES), default="Glow", help="which flow (default: Glow)")
    add("--depth", type=int, default=8, help="K, steps of flow a level (default: 8)")
    add("--levels", type=int, default=None, help="L (default: 3, or 2 for sides of 28)")
    add("--width", type=int, default=96, help="hidden channels of the networks (default: 96)")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what the networks compute in; parameters and log-determinants are float32 in any "
        "case (default: float32)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=None, help="train about this long (30)")
    length.add_argument("--steps", type=int, default=None, help="train for this many steps")
    add("--batch-size", type=int, default=64, help="images a step, over all devices (64)")
    add(
        "--mutate",
        type=float,
        metavar="RATE",
        help="train a background flow: this share of all "
        "values is random (see ecood.baselines.likelihood_ratio)",
    )
    add("--learning-rate", type=float, default=1.5e-3, help="Adam's peak rate (0.0015)")
    add("--seed", type=int, default=0, help="of everything random (0)")
    add("--out", type=pathlib.Path, help="the run's folder (default: runs/<name>_<flow>)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains, evaluates, writes."""
    images = data.load_images(arguments.data, arguments.name, "train", limit=arguments.limit)
    test = data.load_images(arguments.data, arguments.name, "test", limit=arguments.limit)
    print(f"{arguments.name}: {len(images)} training and {len(test)} test images", flush=True)
    module = build_module(arguments, images.shape[1:])
    config = TrainConfig(
        steps=arguments.steps,
        minutes=report.minutes(arguments, 30.0),
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    out = arguments.out or pathlib.Path("runs") / f"{arguments.name}_{arguments.flow.lower()}"
    known = images
    if arguments.mutate is not None:
        known = mutate(jax.random.key(arguments.seed), images, arguments.mutate)
    fitted, seconds = train(module, known, config, out / "run", arguments.name)
    card = report.identify(arguments) | {
        "data": {"name": arguments.name, "train": len(images), "test": len(test)},
        "flow": flows.describe(module),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(fitted.variables["params"])),
        "steps": fitted.steps,
        "seconds": round(seconds, 1),
        "bits_per_dim": bits(module, fitted, images, test),
    }
    metadata = {"bits_per_dim": str(card["bits_per_dim"]["test"]), "command": card["command"]}
    flows.save(out / "flow.safetensors", flows.bind(module, fitted.variables), metadata)
    report.write_json(out / "card.json", card)
    print(f"{out / 'flow.safetensors'}: {card['bits_per_dim']} bits/dim")


def build_module(arguments: argparse.Namespace, image_shape: tuple[int, int, int]):
    """The flow that the command line asks for; each option sets the attribute of its name.

    Raises:
      InputError: for an option that is not at its default, where the flow has no such attribute.
    """
    make = flows.MODULES[arguments.flow]
    options = {"image_shape": image_shape}
    for name in ("depth", "levels", "width", "dtype"):
        value = getattr(arguments, name)
        if name in make.__dataclass_fields__:
            options[name] = value
        elif value != build_parser().get_default(name):
            raise InputError(
                f"{arguments.flow} has no attribute {name}; leave --{name} {value} out or choose "
                "another --flow."
            )
    if "levels" in options and options["levels"] is None:
        options["levels"] = recipes.levels(image_shape)
    if "dtype" in options:
        options["dtype"] = getattr(jnp, options["dtype"])
    return make(**options)


def train(
    module, images: np.ndarray, config: TrainConfig, directory: pathlib.Path, name: str
) -> tuple[Fit, float]:
    """Trains, mirrored where the data set allows it; returns the fit and the seconds it took."""
    started = time.perf_counter()
    title = f"training on {name}"
    fitted = recipes.train_flow(
        module, images, config, directory, flip=name in MIRRORED, title=title
    )
    return fitted, time.perf_counter() - started


def bits(module, fitted: Fit, images: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Mean bits/dim on (a part of) the training images, the held-out and the test images."""
    training, held_out = hold_out(images)
    evaluate = flow_task(module).evaluate

    def mean(images: np.ndarray) -> float:
        values = map_images(evaluate, fitted.variables, jax.random.key(0), images=images)
        return round(float(np.mean(values, dtype=np.float64)), 4)

    return {"train": mean(training[:2000]), "held_out": mean(held_out), "test": mean(test)}


if __name__ == "__main__":
    report.main(run, build_parser())
