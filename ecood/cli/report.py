"""Writes one HTML file: which images are not like the others, why, and where in the image.

    python -m ecood report photos/ --scorer my_scorer --out report.html

The images are shown most OOD first, each beside the nearest images of the memory bank (if the
scorer keeps them, as one of `fit` does), with its parts, a sentence, and a map of where the flow
finds it stranger than it is complex. A slider moves the threshold; the charts show all scores
against the calibration's, and along the order of the files. The file needs no network and no
server; with 10,000 images it has a few megabytes: the 200 most OOD are shown, the 10,000 most OOD
listed. Of an exported scorer (.npz) it has the scores, the charts and what was measured, but no
terms, no nearest images and no map of the flow.
"""

import argparse
import pathlib
import shlex
import sys
from functools import partial

import numpy as np

from ecood import conformal, report
from ecood.cli import clash, score, scorers, summary
from ecood.data import stream
from ecood.data.unused import Unused
from ecood.errors import InputError
from ecood.progress import progress_bar, tell
from ecood.score import Detection
from ecood.weights import write_together

__all__ = ["add_arguments", "run"]

FPR_HELP = "where the slider starts: the share of ID images that may be flagged (default: 0.05)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="folder, image, .npy, .npz, or - for a list")
    add("--scorer", required=True, help=scorers.SCORER_HELP)
    scorers.add_trust(parser)
    add("--out", type=pathlib.Path, required=True, metavar="HTML", help="the file to write")
    add("--fpr", type=float, help=FPR_HELP)
    add("--resize", action="store_true", help=score.RESIZE_HELP)
    add("--key", help="the key of the images in an .npz file")
    score.add_embeddings(parser)
    add("--json-summary", type=pathlib.Path, metavar="FILE", help=score.SUMMARY_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Scores, explains the most OOD, writes."""
    stream.check(arguments.paths, arguments.key)
    if arguments.fpr is not None:
        conformal.check_fpr(arguments.fpr)
    outputs = (arguments.out, arguments.json_summary)
    read = (*arguments.paths, arguments.embeddings, *scorers.parts(arguments.scorer))
    clash.check(outputs, read)
    clash.check_text(outputs)
    embeddings = score.read_embeddings(arguments)
    scorer = scorers.find(arguments.scorer, arguments)
    scorer.threshold()  # refuses one that is not calibrated
    fpr = summary.FPR if arguments.fpr is None else arguments.fpr
    if arguments.fpr is not None:
        score.limit_at(fpr, scorer)
    tell(summary.introduce(arguments.scorer, scorer))
    unused, collected = Unused(), report.Collected()
    with progress_bar(stream.count(arguments.paths, arguments.key), "scoring") as bar:
        usable = score.usable(arguments, scorer, unused, bar, outputs)

        def measure(items: list[stream.Item]) -> tuple[list[stream.Item], Detection, np.ndarray]:
            return items, *score.measured(scorer, items, embeddings)

        for each in score.in_chunks(usable, measure, bar, score.at_once(scorer)):
            collected.add(*each)
    if not collected.rows:
        raise InputError(f"no image could be scored: {unused.reason}")
    about = {
        "scorer": str(arguments.scorer),
        "command": shlex.join(["python", "-m", "ecood", *sys.argv[1:]]),
    }
    options = {"fpr": fpr}
    if embeddings is not None:
        shown = collected.rows[: len(collected.images)]
        options["embeddings"] = embeddings[[row.index for row in shown]]
    with progress_bar(len(collected.images), "explaining") as bar:
        page = report.page(scorer, collected, unused, about, progress=bar.update, **options)
    scores, tested = collected.scores, ~collected.known
    found = summary.summarise(str(arguments.scorer), scorer, scores, tested, unused, fpr)
    files = {arguments.out: lambda path: path.write_text(page, "utf-8")}
    if arguments.json_summary is not None:
        files[arguments.json_summary] = partial(summary.write, found)
    write_together(files)
    for sentence in summary.sentences(found):
        tell(sentence)
    return 1 if found["passed_over"] else 0
