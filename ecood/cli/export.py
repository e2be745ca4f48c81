"""Writes a scorer as one file that jax alone runs.

python -m ecood export my_scorer --out my_scorer.npz

The file is for CPU, CUDA and TPU, whichever of these this machine has; --platforms names others.
docs/export.md tells how to run it.
"""

import argparse
import pathlib

from ecood.cli import clash, scorers
from ecood.errors import InputError
from ecood.score import Program
from ecood.score.export import PLATFORMS

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("scorer", help=scorers.DIRECTORY_HELP)
    add("--out", type=pathlib.Path, required=True, help="the file, ending in .npz")
    what = f"of {', '.join(PLATFORMS)} and rocm (default: {' '.join(PLATFORMS)})"
    add("--platforms", nargs="+", metavar="PLATFORM", default=PLATFORMS, help=what)
    scorers.add_trust(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exports."""
    clash.check([arguments.out], scorers.parts(arguments.scorer))
    scorer = scorers.find(arguments.scorer, arguments)
    if isinstance(scorer, Program):
        raise InputError(
            f"{arguments.scorer} is an exported scorer already; expected the directory that it was "
            "exported from, or copy the file."
        )
    scorer.export(arguments.out, arguments.platforms)
    size = arguments.out.stat().st_size / 1e6
    print(f"{arguments.out}: {size:.1f} MB, for {', '.join(arguments.platforms)}")
    return 0
