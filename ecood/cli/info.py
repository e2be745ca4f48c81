"""Tells what a scorer is made of.

python -m ecood info              the shipped scorers
python -m ecood info my_scorer    one scorer: parts, sizes, noise strength, calibration, card
"""

import argparse
import math
import pathlib
import sys
from typing import Any

import jax

import ecood.score
from ecood import conformal, models
from ecood.cli import scorers
from ecood.errors import InputError, readable
from ecood.score import Program, Scorer
from ecood.score.files import locate
from ecood.score.thresholds import FPRS
from ecood.words import number_of

__all__ = ["add_arguments", "calibration", "run", "told"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("scorer", nargs="?", help=scorers.SCORER_HELP)
    scorers.add_trust(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints."""
    if sys.stdout is None:
        raise InputError("standard output is closed, and there is nothing else to do.")
    if arguments.scorer is None:
        print("\n".join(ecood.score.shipped()))
        return 0
    scorer = scorers.find(arguments.scorer, arguments)
    if isinstance(scorer, Program):
        print("\n".join([*_exported(scorer, arguments.scorer), *calibration(scorer)]))
        return 0
    directory = locate(arguments.scorer)
    print("\n".join([*_parts(scorer, directory), *calibration(scorer)]))
    for card in sorted([*directory.glob("README.md"), *directory.glob("card.json")]):
        text = card.read_text(encoding="utf-8", errors="replace").strip()
        # Of whoever wrote it: it may hold codes that drive a terminal.
        lines = (readable(line.expandtabs()) for line in text.splitlines())
        print("\n".join(["", f"{card.name}:", "", *lines]))
    return 0


def told(threshold: float) -> str:
    """A threshold in words."""
    return f"score > {threshold:.4f}" if threshold < math.inf else "too few calibration images"


def _parts(scorer: Scorer, directory: pathlib.Path) -> list[str]:
    height, width, channels = scorer.image_shape
    (kind, sizes), draws = scorer.flow.described, scorer.state.draws
    settings = ", ".join(f"{name} {value}" for name, value in sizes.items())
    size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    bank = jax.tree.leaves(scorer.state.bank)
    arrays = ", ".join(f"{leaf.dtype} {list(leaf.shape)}" for leaf in bank)
    made_from = (
        f"it is not known which images {', '.join(scorer.unknown)} were made from; thresholds "
        "calibrated on some of these would flag more new images than they state"
        if scorer.unknown
        else f"{number_of(len(scorer.fitted_on), 'image')}, which it will not be calibrated on"
    )
    return [
        f"scorer:         {directory} ({size / 1e6:.1f} MB)",
        f"images:         uint8 [N, {height}, {width}, {channels}]",
        f"flow:           {kind}, {_size(scorer.flow.variables)} ({settings})",
        f"encoder:        {scorer.encoder.name}, {_size(scorer.encoder.variables)}",
        f"memory bank:    {arrays} ({sum(leaf.nbytes for leaf in bank) / 1e6:.1f} MB)",
        f"noise strength: {float(scorer.state.noise_strength):.4g}",
        f"noise draws:    {draws.count}{', antithetic' if draws.antithetic else ''}, seed "
        f"{scorer.seed}",
        f"made from:      {made_from}",
    ] + ([] if scorer.made_by is None else [f"made by:        {scorer.made_by}"])


def _exported(program: Program, path: str) -> list[str]:
    height, width, channels = program.image_shape
    size, about = sum(weight.nbytes for weight in program.state), program.about
    return [
        f"program:        {path} ({size / 1e6:.1f} MB of weights)",
        f"images:         uint8 [N, {height}, {width}, {channels}]",
        f"platforms:      {', '.join(about['platforms'])}",
        f"written by:     ecood {about['ecood']}, jax {about['jax']}",
    ]


def _size(variables: Any) -> str:
    return number_of(models.size(variables), "parameter")


def calibration(scorer: Scorer | Program) -> list[str]:
    """Lines of how many images a scorer is calibrated on, and of its thresholds."""
    if scorer.calibration is None:
        return ["calibration:    none; scorer.calibrate(id_images) gives thresholds and p-values"]
    n = len(scorer.calibration)
    lines = [f"calibration:    {number_of(n, 'image')}"]
    for fpr in FPRS:
        low, high = conformal.realised_fpr(n, fpr)
        spread = f" (this calibration set: {low:.2%} to {high:.2%} of ID images)" if high else ""
        lines.append(f"  fpr {fpr:>4.0%}:     {told(scorer.threshold(fpr))}{spread}")
    return lines
