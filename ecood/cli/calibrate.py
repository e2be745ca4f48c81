"""Calibrates a scorer on your own in-distribution images: p-values and thresholds for these.

    python -m ecood calibrate photos/ --scorer my_scorer --out calibrated

Writes the scorer with the new calibration to another directory; nothing is trained. Of new images
that are exchangeable with these, at most the stated share is flagged. Images that the scorer was
made from are left out, copies of an image count as one, and what cannot be used is told and passed
over; the exit code is then 1.
"""

import argparse
import pathlib
import shlex
from collections import deque

from ecood import splits
from ecood.cli import clash, info, score, scorers
from ecood.data import stream
from ecood.data.decode import stack
from ecood.data.unused import Unused
from ecood.errors import InputError
from ecood.progress import progress_bar, tell
from ecood.score import Program
from ecood.words import number_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="folder, image, .npy, .npz, or - for a list")
    add("--scorer", required=True, help=scorers.DIRECTORY_HELP)
    scorers.add_trust(parser)
    add("--out", type=pathlib.Path, required=True, metavar="DIRECTORY", help="what to write")
    add("--resize", action="store_true", help=score.RESIZE_HELP)
    add("--key", help="the key of the images in an .npz file")
    score.add_embeddings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Reads, calibrates, saves."""
    clash.check_new(arguments.out)
    stream.check(arguments.paths, arguments.key)
    read = (*arguments.paths, arguments.embeddings, *scorers.parts(arguments.scorer))
    clash.check([arguments.out], read, folder=True)
    embeddings = score.read_embeddings(arguments)
    scorer = scorers.find(arguments.scorer, arguments)
    if isinstance(scorer, Program):
        raise InputError(
            f"{arguments.scorer} is an exported scorer, whose calibration is part of its program; "
            "calibrate the directory that it was exported from, and export that."
        )
    unused = Unused()
    with progress_bar(stream.count(arguments.paths, arguments.key), "reading") as bar:
        items: deque[stream.Item] = deque()
        for item in score.usable(arguments, scorer, unused, bar, ()):
            items.append(item)
            bar.update(1)
    if not items:
        raise InputError(f"no image can be used: {unused.reason}")
    places = [item.index for item in items]
    # Each is given up as it goes into the array.
    drained = (items.popleft() for _ in places)
    images = stack(((item.path, item.image) for item in drained), len(places))
    new = ~scorer.made_from(images)
    if not new.all():
        tell(f"left out {number_of(int((~new).sum()), 'image')} that the scorer was made from")
    if not new.any():
        raise InputError("the scorer was made from all of these images; give others.")
    images, options = images[new], {}
    if embeddings is not None:
        options["embeddings"] = embeddings[places][new]
    if copies := len(images) - len(splits.distinct(images)):
        tell(f"{number_of(copies, 'image is a copy', 'images are copies')}, which count as one")
    if scorer.unknown:
        tell(
            f"it is not known which images {', '.join(scorer.unknown)} were made from; if these "
            "were among them, more than the stated share of new images will be flagged"
        )
    with progress_bar(len(images), "scoring") as bar:
        scorer = scorer.calibrate(images, progress=bar.update, **options)
    scorer.save(arguments.out)
    directory = shlex.quote(str(arguments.out))
    following = f"next: python -m ecood score FOLDER --scorer {directory} --fpr 0.05"
    print("\n".join([*info.calibration(scorer), following + " --resize" * arguments.resize]))
    if unused.count:
        tell(f"passed over {number_of(unused.count, 'image')}")
    return 1 if unused.count else 0
