"""Fits a detector to your own in-distribution images, and saves it in one directory.

    python -m ecood fit photos/ --out my_scorer --resize 32 --minutes 30

Trains a flow (or loads one, --flow) and an encoder, embeds the images into the memory bank, chooses
the noise strength, and calibrates. Of the images, a tenth (at most 2,000), drawn at random, is kept
for the calibration, on which p-values and thresholds rest; another twentieth is held out of
training, and chooses the noise strength. Copies of an image count as one. Images that a given flow
or encoder was trained on, as its file remembers, are never in these parts. Labels and OOD images
have no part in it.

The directory appears when all is done. Until then the run is kept beside it, in DIRECTORY.run:
run the same command again to resume an interrupted run.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import shlex
import shutil
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import ecood
import ecood.score
from ecood import conformal, devices, encoders, flows, hosts, provenance, splits, statistics, train
from ecood.batches import map_images, watched
from ecood.cli import clash
from ecood.cli.info import told
from ecood.data import sizes, stream
from ecood.encoders import Encoder
from ecood.errors import InputError, check_text, check_whole
from ecood.flows import Flow
from ecood.metrics import auroc
from ecood.progress import progress_bar, tell, training
from ecood.score import GRID, Scorer
from ecood.score.parts import check_encoder
from ecood.splits import Split
from ecood.stand_ins import turned
from ecood.train import TrainConfig
from ecood.weights import only_writer
from ecood.words import number_of

__all__ = ["add_arguments", "run"]

FEWEST = 45  # images: of which a twentieth is at least 2
MOST_THUMBNAILS = 64 * 2**20  # bytes of pixels
SIZES = {"depth": 8, "width": 96}  # of a flow, if the command line says nothing
RUNS = ("encoder", "flow")  # what is trained, each in a folder of its own
LOCK = "lock"  # beside them
ENCODERS = ("auto", "compact", "efficientnet_lite0", "pixels")
ENCODER_HELP = """auto, compact (trained on these images), efficientnet_lite0 (ImageNet), pixels, or
an encoder.safetensors file; auto is efficientnet_lite0 for colour images if it is installed, else
compact (default: auto)"""
MINUTES_HELP = "for the flow; a compact encoder gets a quarter of it on top (default: 30)"
THUMBNAILS_HELP = """do not keep the images to train on in the scorer, as small PNG files that show
in reports which of them is nearest (default: keep up to 64 MiB of pixels)"""
MIRROR_HELP = "left and right mean the same: train on mirror images too"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="folder, image, .npy, .npz, or - for a list")
    add("--out", type=pathlib.Path, required=True, metavar="DIRECTORY", help="what to write")
    add("--resize", metavar="SIDE", help="bring images to SIDE x SIDE, or HEIGHTxWIDTH, pixels")
    add("--key", help="the key of the images in an .npz file")
    add("--flow", type=pathlib.Path, help="a flow.safetensors file, instead of training one")
    add("--encoder", default="auto", help=ENCODER_HELP)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=30.0, help=MINUTES_HELP)
    length.add_argument("--steps", type=int, help="train for this many steps instead")
    add("--depth", type=int, help=f"K, steps of flow a level (default: {SIZES['depth']})")
    add("--width", type=int, help=f"hidden channels of the flow (default: {SIZES['width']})")
    add("--mirror", action="store_true", help=MIRROR_HELP)
    add("--no-thumbnails", action="store_true", help=THUMBNAILS_HELP)
    add("--seed", type=int, default=0, help="of everything random (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Fits; if it is interrupted, tells where the run is."""
    try:
        _check(arguments)
        with _alone(arguments.out):
            return _fit(arguments)
    except KeyboardInterrupt:
        if (unfinished := _unfinished(arguments.out)).exists():
            tell(f"what was trained is kept in {unfinished}; the same command goes on from there")
        raise


def _fit(arguments: argparse.Namespace) -> int:
    """Reads, trains, fits, calibrates, saves."""
    started = time.perf_counter()
    images, skipped, mixed = _read(arguments)
    shape = images.shape[1:]
    # Whatever may be refused comes before the flow, which takes longest.
    flow = None if arguments.flow is None else flows.load(arguments.flow)
    if flow is not None:
        images = _fitting(images, flow.image_shape, arguments)
        shape = flow.image_shape
    encoder = None if arguments.encoder in ENCODERS else encoders.load(arguments.encoder)
    if encoder is not None:
        check_encoder(encoder, shape)
    split = _draw(images, arguments.seed, flow, encoder)
    unfinished = _unfinished(arguments.out)
    given = {"depth": arguments.depth, "width": arguments.width}
    sizes = SIZES | {name: size for name, size in given.items() if size is not None}
    module = None if flow else train.flow_module("Glow", shape, **sizes)
    if module and arguments.steps is None:
        tell(f"training the flow takes {arguments.minutes:g} minutes; --minutes says how many")
    kind = None if encoder else _kind(arguments, split)
    encoder = encoder or _make_encoder(kind, arguments, split, unfinished)
    flow, bits = (flow, None) if flow else _train_flow(arguments, module, split, unfinished)
    tell("building the memory bank, choosing the noise strength, calibrating")
    kept = not arguments.no_thumbnails and split.train.nbytes <= MOST_THUMBNAILS
    if not (kept or arguments.no_thumbnails):
        tell(f"the images to train on have more than {MOST_THUMBNAILS >> 20} MiB: none is kept")
    with progress_bar(_passes(split), "fitting") as bar, watched(bar.update):
        scorer = ecood.score.fit(flow, encoder, split, seed=arguments.seed, thumbnails=kept)
    if bits is None:
        key = jax.random.key(arguments.seed)
        bits = float(np.mean(map_images(statistics.bits, flow, key, images=split.held_out)))
    separation = auroc(*(scorer(each) for each in (split.held_out, turned(split.held_out))))
    counts = {name: len(part) for name, part in split._asdict().items()}
    card = {
        "images": {"given": len(images)} | counts,
        "bits_per_dim_held_out": bits,
        "auroc_of_held_out_against_turned": separation,
        "training_images_unknown": scorer.unknown,
        "command": provenance.command(),
        "ecood": ecood.__version__,
        "jax": jax.__version__,
        "seconds": round(time.perf_counter() - started, 1),
    }
    dataclasses.replace(scorer, card=card).save(arguments.out)
    if hosts.is_first():
        for name, trained in (("encoder", kind == "compact"), ("flow", module is not None)):
            if trained:  # else what is there is another run's, or somebody's
                shutil.rmtree(unfinished / name, ignore_errors=True)
    resize = mixed or arguments.resize is not None  # so must they who read such a folder again
    print("\n".join(_ending(arguments.out, scorer, card, resize)))
    if skipped:
        tell(f"passed over {number_of(skipped, 'image')}")
    return 1 if skipped else 0


def _passes(split: Split) -> int:
    """Images that pass a program while a scorer is fitted, each as often as it does."""
    others = 4  # similarity, what decides the noise, b and L
    of_held_out = 2 * (len(GRID) + others) * len(split.held_out)
    alone = 1 + others  # one image once more, at one strength
    return len(split.train) + of_held_out + alone + len(split.calibration)


def _unfinished(out: pathlib.Path) -> pathlib.Path:
    """Where the run is kept until it is done."""
    return out.with_name(out.name + ".run")


@contextlib.contextmanager
def _alone(out: pathlib.Path) -> Iterator[None]:
    """Refuses another process that fits for the same directory, until this one has ended."""
    if not hosts.is_first():
        yield
        return
    unfinished = _unfinished(out)
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        with (unfinished / LOCK).open("a") as file:
            if only_writer(file) is False or not (unfinished / LOCK).exists():
                raise InputError(f"another process is fitting {out}; wait for it.")
            try:
                clash.check_new(out)  # that process may have ended since this one asked
                yield
            finally:
                (unfinished / LOCK).unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):  # it holds what was trained, or what somebody put there
            unfinished.rmdir()


def _ending(
    directory: pathlib.Path, scorer: Scorer, card: dict[str, Any], resize: bool
) -> list[str]:
    """What can be known of a scorer without images that are out of distribution."""
    n = len(scorer.calibration)
    low, high = conformal.realised_fpr(n, 0.05)
    luck = f"; by the luck of {number_of(n, 'calibration image')}, {low:.1%} to {high:.1%}"
    if not high:
        luck = f" ({n:,}, and the rate needs 19: some 190 images to fit to)"
    given = number_of(card["images"]["given"], "image")
    held_out = number_of(card["images"]["held_out"], "held-out image")
    bits, separation = card["bits_per_dim_held_out"], card["auroc_of_held_out_against_turned"]
    strength = float(scorer.state.noise_strength)
    doubts = (
        ", more than without any model: the flow has diverged, or is hardly trained",
        ", the strongest that is tried: little but noise told them apart",
    )
    diverged, strongest = bits > statistics.UNIFORM_BITS, np.isclose(strength, max(GRID))
    return [
        f"{directory}: fitted to {given} in {card['seconds']:.0f} s",
        f"{held_out}: {bits:.3f} bits/dim{doubts[0] * diverged}; "
        f"AUROC {separation:.3f} against themselves turned by a quarter, which chose the noise "
        f"strength, {strength:.3g}{doubts[1] * bool(strongest)}",
        f"threshold at a false-positive rate of 5%: {told(scorer.threshold(0.05))}" + luck,
        f"next: python -m ecood report FOLDER --scorer {shlex.quote(str(directory))} "
        "--out report.html" + " --resize" * resize,
    ]


def _check(arguments: argparse.Namespace) -> None:
    """What can be refused before anything is read or trained."""
    clash.check_new(arguments.out)
    if arguments.encoder not in ENCODERS and not pathlib.Path(arguments.encoder).is_file():
        raise InputError(
            f"--encoder is {arguments.encoder!r}; expected {', '.join(ENCODERS)} or a file that "
            "ecood.encoders.save wrote."
        )
    if arguments.flow is not None:
        for option in ("depth", "width", "mirror"):
            if getattr(arguments, option) not in (None, False):
                raise InputError(
                    f"--flow gives a trained flow, for which --{option} would do nothing; leave it "
                    "out."
                )
    for option in SIZES:
        if (size := getattr(arguments, option)) is not None:
            check_whole(f"--{option}", size)
    if (sides := _size(arguments.resize)) and arguments.flow is None:
        train.levels((*sides, 1))  # refuses sides of which no flow can be trained
    TrainConfig(**_length(arguments))
    encoder = None if arguments.encoder in ENCODERS else arguments.encoder
    inputs = (*arguments.paths, arguments.flow, encoder)
    unfinished = _unfinished(arguments.out)
    clash.check((arguments.out, unfinished), inputs, folder=True)
    if arguments.flow is None or arguments.encoder in ("auto", "compact"):
        check_text(unfinished.absolute())
    found = {path.name for path in unfinished.iterdir()} if unfinished.exists() else set()
    if others := sorted(found - {*RUNS, LOCK}):
        raise InputError(
            f"{unfinished}, where the run would be kept until it is done, holds {others[0]}, which "
            "is none of a run's; choose another --out."
        )
    devices.check()
    stream.check(arguments.paths, arguments.key)


def _length(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of a `TrainConfig` that the command states."""
    minutes = arguments.minutes if arguments.steps is None else None
    return {"steps": arguments.steps, "minutes": minutes, "seed": arguments.seed}


def _read(arguments: argparse.Namespace) -> tuple[np.ndarray, int, bool]:
    """All images, uint8 [N, H, W, C], how many others could not be read, and if grey became RGB."""
    size = _size(arguments.resize)
    images: deque[np.ndarray] = deque()
    skipped = 0
    total = stream.count(arguments.paths, arguments.key)
    with progress_bar(total, "reading") as bar:
        for item in stream.read(arguments.paths, arguments.key):
            bar.update(item.count)
            if item.problem is not None:
                skipped += item.count
                tell(f"passed over: {item.problem}" if item.count else item.problem)
                continue
            shape = (*(size or item.image.shape[:2]), item.image.shape[-1])
            image = sizes.conform(item.image, shape, True, item.path)
            if images and image.shape[:2] != images[0].shape[:2]:
                raise InputError(
                    f"{item.path} is {image.shape[0]} x {image.shape[1]} pixels, and the images "
                    f"before it are {images[0].shape[0]} x {images[0].shape[1]}; expected images "
                    "of one size: add --resize SIDE."
                )
            images.append(image)
    if len(images) < FEWEST:
        raise InputError(
            f"{number_of(len(images), 'image')} can be used; expected at least {FEWEST}, better "
            "thousands."
        )
    fewest = min(image.shape[-1] for image in images)
    stacked = _stacked(images)
    return stacked, skipped, fewest < stacked.shape[-1]


def _stacked(images: deque[np.ndarray]) -> np.ndarray:
    """Images of one or three channels as one array; each is given up as it goes there.

    Of both, all become RGB; or grey, where the three channels are equal in each that has them.
    """
    found = {image.shape[-1] for image in images}
    channels = max(found)
    if len(found) > 1:
        grey = sum(map(sizes.is_grey, images))
        if grey == len(images):
            channels = 1
        else:
            of_grey = number_of(grey, "image is", "images are")
            rest = number_of(len(images) - grey, "is", "are")
            tell(f"{of_grey} grey and {rest} in colour: all become RGB")
    stacked = np.empty((len(images), *images[0].shape[:2], channels), np.uint8)
    for row in stacked:
        row[:] = images.popleft()[..., :channels]
    return stacked


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


def _fitting(
    images: np.ndarray, shape: tuple[int, int, int], arguments: argparse.Namespace
) -> np.ndarray:
    """The images [N, H, W, C] in the shape of a given flow; --resize converts channels, too."""
    if images.shape[1:] == shape:
        return images
    height, width, channels = shape
    resize, same_sides = arguments.resize is not None, images.shape[1:3] == (height, width)
    if same_sides and (resize or channels == 1 and sizes.is_grey(images)):
        return np.stack([sizes.conform(image, shape, resize, "") for image in images])
    raise InputError(
        f"{arguments.flow} is a flow of images of shape {list(shape)}, and these have "
        f"{list(images.shape[1:])}; add --resize {height}x{width}, or train a flow on these."
    )


def _draw(images: np.ndarray, seed: int, *models: Flow | Encoder | None) -> Split:
    """The parts, none of which but `train` has images that a given model was trained on."""
    given = [model for model in models if model is not None]
    split = splits.draw(images, seed=seed, used=splits.used_by(*given))
    sizes = [len(part) for part in split]
    copied = ""
    if copies := len(images) - sum(sizes):
        of = f"of {number_of(len(images), 'image')}"
        words = (f"{of} is a copy of another and does", f"{of} are copies of others and do")
        copied = f"{number_of(copies, *words)} not count"
    if sizes[1] < 2:
        raise InputError(
            f"{copied and f'{copied}, and '}{number_of(sizes[1], 'image')} can be held out; "
            "expected at least 2: give more images that are no copies, and that nothing was "
            "trained on."
        )
    if copied:
        tell(copied)
    tell("images: {} to train on, {} held out, {} for the calibration".format(*sizes))
    for model in given:
        if model.trained_on is None:
            kind = "flow" if isinstance(model, Flow) else f"encoder {model.name}"
            tell(
                f"it is not known which images the {kind} was trained on: if some of these were "
                "among them, more than the stated share of new images will be flagged"
            )
    return split


def _kind(arguments: argparse.Namespace, split: Split) -> str:
    """Which encoder is made, told: `auto` is the usual one for such images."""
    kind = arguments.encoder
    if kind == "auto":
        kind = train.usual_encoder(split.train.shape[-1])
    tell(f"encoder: {kind}")
    return kind


def _make_encoder(
    kind: str, arguments: argparse.Namespace, split: Split, unfinished: pathlib.Path
) -> Encoder:
    if kind != "compact":
        return encoders.pixels() if kind == "pixels" else encoders.efficientnet_lite0()
    return train.fit_beside_flow(split, unfinished / "encoder", **_length(arguments))


def _train_flow(
    arguments: argparse.Namespace, module: flows.Glow, split: Split, unfinished: pathlib.Path
) -> tuple[Flow, float]:
    """The trained flow, and its bits/dim on the held-out images."""
    config = TrainConfig(batch_size=train.flow_batch_size(len(split.train)), **_length(arguments))
    with training("training the flow") as progress:
        flow, fitted = train.fit_flow(
            module, split, config, unfinished / "flow", flip=arguments.mirror, progress=progress
        )
    steps = number_of(fitted.steps, "step")
    tell(f"flow: {steps}, {fitted.held_out:.3f} bits/dim on held-out images")
    return flow, fitted.held_out
