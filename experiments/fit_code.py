"""Fits the constants of the universal code: `python -m experiments.fit_code`, a few minutes.

Prints them for `ecood.code_length.CONSTANTS`; `ecood.train.code` says to which images.
"""

import argparse

import numpy as np

from ecood.train.code import fit_constants
from experiments import report


def show(step: int, bits: np.ndarray) -> None:
    """Tells of every hundredth step."""
    if step % 100 == 0:
        print(f"step {step}: bits/dim {np.round(bits, 3)}", flush=True)


def run(arguments: argparse.Namespace) -> None:
    """Fits and prints."""
    for name, value in fit_constants(arguments.steps, show)._asdict().items():
        print(f"    {name}={value.tolist()},")


if __name__ == "__main__":
    parser = report.parser("experiments.fit_code", __doc__)
    parser.add_argument("--steps", type=int, default=400, help="of Adam (default: 400)")
    report.main(run, parser)
