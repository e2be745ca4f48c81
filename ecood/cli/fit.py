"""Fits a detector to your own in-distribution images, and saves it in one directory.

    python -m ecood fit photos/ --out my_scorer --resize 32 --minutes 30

Trains a flow (or loads one, --flow) and an encoder, embeds the images into the memory bank, chooses
the noise strength, and calibrates. Of the images, mixed, a tenth (at most 2,000) is kept for the
calibration, on which p-values and thresholds rest; of the others the last twentieth is held out of
training, and chooses the noise strength. Labels and OOD images have no part in it.

The directory appears when all is done. Until then the run is kept beside it, in DIRECTORY.run:
run the same command again to resume an interrupted run.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import shutil
import sys
import time

import jax
import numpy as np
import tqdm

import ecood
import ecood.score
from ecood import encoders, flows, recipes
from ecood.data import stream
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.progress import progress_bar
from ecood.train import TrainConfig
from ecood.weights import atomic_path, check_writable

__all__ = ["add_arguments", "run"]

FEWEST = 45  # images: a tenth calibrates, and a twentieth of the rest is at least 2
CALIBRATION_SHARE, MOST_CALIBRATION = 10, 2000
ENCODERS = ("auto", "compact", "efficientnet_lite0", "pixels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="folder, image, .npy, .npz, or - for a list")
    add("--out", type=pathlib.Path, required=True, metavar="DIRECTORY", help="what to write")
    add("--resize", metavar="SIDE", help="bring images to SIDE x SIDE, or HEIGHTxWIDTH, pixels")
    add("--key", help="the key of the images in an .npz file")
    add("--flow", type=pathlib.Path, help="a flow.safetensors file, instead of training one")
    add(
        "--encoder",
        default="auto",
        help="auto, compact (trained on these images), efficientnet_lite0 (ImageNet), pixels, or "
        "an encoder.safetensors file; auto is efficientnet_lite0 for colour images if it is "
        "installed, else compact (default: auto)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="for the flow; a compact encoder gets a "
                        "quarter of it on top (default: 30)")  # fmt: skip
    length.add_argument("--steps", type=int, help="train for this many steps instead")
    add("--depth", type=int, default=8, help="K, steps of flow a level (default: 8)")
    add("--width", type=int, default=96, help="hidden channels of the flow (default: 96)")
    add(
        "--mirror",
        action="store_true",
        help="left and right mean the same: train on mirror images too",
    )
    add("--seed", type=int, default=0, help="of everything random (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Reads, trains, fits, calibrates, saves."""
    started = time.perf_counter()
    _check(arguments)
    images, skipped = _read(arguments)
    mixed = images[np.random.default_rng(arguments.seed).permutation(len(images))]
    kept = min(len(images) // CALIBRATION_SHARE, MOST_CALIBRATION)
    calibration, id_images = mixed[:kept], mixed[kept:]
    unfinished = arguments.out.with_name(arguments.out.name + ".run")
    # Whatever may be refused comes before the flow, which takes longest.
    given = _flow(arguments, images.shape[1:])
    encoder = _encoder(arguments, id_images, unfinished)
    if isinstance(given, Flow):
        flow, bits = given, None
    else:
        flow, bits = _train_flow(arguments, given, id_images, unfinished)
    _tell("building the memory bank and choosing the noise strength")
    scorer = ecood.score.fit(flow, encoder, id_images, seed=arguments.seed)
    with progress_bar(len(calibration), "calibrating") as bar:
        scorer = scorer.calibrate(calibration, progress=bar.update)
    scorer.save(arguments.out)
    card = {
        "images": {"given": len(images), "bank, training": len(id_images), "calibration": kept},
        "bits_per_dim_held_out": bits,
        "command": " ".join(["python -m ecood", *sys.argv[1:]]),
        "ecood": ecood.__version__,
        "jax": jax.__version__,
        "seconds": round(time.perf_counter() - started, 1),
    }
    with atomic_path(arguments.out / "card.json") as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")
    shutil.rmtree(unfinished, ignore_errors=True)
    limit = scorer.threshold(0.05)
    told = f"score > {limit:.4f}" if limit < math.inf else "too few images to vouch for"
    print(
        f"{arguments.out}: fitted to {len(images)} images in {card['seconds']:.0f} s; threshold at "
        f"a false-positive rate of 5%: {told}"
    )
    if skipped:
        _tell(f"passed over {skipped} images")
    return 1 if skipped else 0


def _check(arguments: argparse.Namespace) -> None:
    """What can be refused before anything is read or trained."""
    if arguments.out.exists():
        raise InputError(
            f"{arguments.out} is there already; remove it or choose another directory to write."
        )
    if arguments.encoder not in ENCODERS and not pathlib.Path(arguments.encoder).is_file():
        raise InputError(
            f"--encoder is {arguments.encoder!r}; expected {', '.join(ENCODERS)} or a file that "
            "ecood.encoders.save wrote."
        )
    _config(arguments)
    check_writable(arguments.out)
    stream.check(arguments.paths, arguments.key)


def _read(arguments: argparse.Namespace) -> tuple[np.ndarray, int]:
    """All images, uint8 [N, H, W, C], and how many others could not be read.

    Where some are grey and some in colour, the grey ones become RGB.
    """
    size = _size(arguments.resize)
    images: list[np.ndarray] = []
    skipped = 0
    total = stream.count(arguments.paths, arguments.key)
    with progress_bar(total, "reading") as bar:
        for item in stream.read(arguments.paths, arguments.key):
            bar.update(item.count)
            if item.problem is not None:
                skipped += item.count
                tqdm.tqdm.write(f"passed over: {item.problem}", file=sys.stderr)
                continue
            shape = (*(size or item.image.shape[:2]), item.image.shape[-1])
            image = stream.conform(item.image, shape, True, item.path)
            if images and image.shape[:2] != images[0].shape[:2]:
                raise InputError(
                    f"{item.path} is {image.shape[0]} x {image.shape[1]} pixels, and the images "
                    f"before it are {images[0].shape[0]} x {images[0].shape[1]}; expected images "
                    "of one size: add --resize SIDE."
                )
            images.append(image)
    if len(images) < FEWEST:
        raise InputError(
            f"{len(images)} images can be used; expected at least {FEWEST}, better thousands."
        )
    channels = max(image.shape[-1] for image in images)
    return np.stack([np.broadcast_to(i, (*i.shape[:2], channels)) for i in images]), skipped


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        sides = [int(side) for side in text.split("x")]
        height, width = sides * 2 if len(sides) == 1 else sides
    except ValueError:
        height = width = 0
    if not (0 < height <= 1024 and 0 < width <= 1024):
        raise InputError(f"--resize is {text!r}; expected pixels up to 1024, as 32 or 48x32.")
    return height, width


def _config(arguments: argparse.Namespace) -> TrainConfig:
    minutes = arguments.minutes if arguments.minutes is not None else 30.0
    return TrainConfig(
        steps=arguments.steps,
        minutes=None if arguments.steps is not None else minutes,
        seed=arguments.seed,
    )


def _flow(arguments: argparse.Namespace, shape: tuple[int, int, int]) -> Flow | flows.Glow:
    """The flow that was named, or the one to be trained."""
    if arguments.flow is None:
        levels = recipes.levels(shape)
        return flows.Glow(shape, depth=arguments.depth, levels=levels, width=arguments.width)
    flow = flows.load(arguments.flow)
    given = tuple(flow.architecture["image_shape"])
    if given != shape:
        raise InputError(
            f"{arguments.flow} is a flow of images of shape {list(given)}, and these have "
            f"{list(shape)}; add --resize, or train a flow on these."
        )
    return flow


def _train_flow(
    arguments: argparse.Namespace, module: flows.Glow, images: np.ndarray, unfinished: pathlib.Path
) -> tuple[Flow, float]:
    """The trained flow, and its bits/dim on the held-out images."""
    config = dataclasses.replace(
        _config(arguments), batch_size=recipes.batch_size(images, recipes.FLOW_BATCH)
    )
    fitted = recipes.train_flow(module, images, config, unfinished / "flow", flip=arguments.mirror)
    _tell(f"flow: {fitted.steps} steps, {fitted.held_out:.3f} bits/dim on held-out images")
    return flows.bind(module, fitted.variables), fitted.held_out


def _encoder(
    arguments: argparse.Namespace, images: np.ndarray, unfinished: pathlib.Path
) -> Encoder:
    kind = arguments.encoder
    if kind == "auto":
        colour = images.shape[-1] == 3
        installed = colour and encoders.efficientnet_lite0_installed()
        kind = "efficientnet_lite0" if installed else "compact"
    _tell(f"encoder: {kind}")
    if kind == "efficientnet_lite0":
        return encoders.efficientnet_lite0()
    if kind == "pixels":
        return encoders.pixels()
    if kind != "compact":
        return encoders.load(kind)
    config = _config(arguments)
    minutes = None if config.minutes is None else max(0.5, config.minutes / 4)
    return recipes.train_encoder(
        images, minutes, unfinished / "encoder", steps=config.steps, seed=arguments.seed
    )


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
