"""Tells what a scorer is made of.

python -m ecood info              the shipped scorers
python -m ecood info my_scorer    one scorer: parts, sizes, noise strength, calibration, card
"""

import argparse
import pathlib

import jax

import ecood.score
from ecood import conformal
from ecood.score import Scorer
from ecood.score.scorer import PRETRAINED

__all__ = ["add_arguments", "run"]

FPRS = (0.01, 0.05, 0.1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "scorer", nargs="?", help="a directory that `fit` wrote, or a shipped scorer"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints."""
    if arguments.scorer is None:
        print("\n".join(ecood.score.shipped()))
        return 0
    scorer = ecood.score.load(arguments.scorer)
    directory = pathlib.Path(arguments.scorer)
    directory = directory if directory.is_dir() else PRETRAINED / arguments.scorer
    print("\n".join([*_parts(scorer, directory), *_calibration(scorer)]))
    for card in sorted([*directory.glob("README.md"), *directory.glob("card.json")]):
        print(f"\n{card.name}:\n\n{card.read_text().strip()}")
    return 0


def _parts(scorer: Scorer, directory: pathlib.Path) -> list[str]:
    height, width, channels = scorer.image_shape
    architecture = dict(scorer.flow.architecture or {})
    kind = architecture.pop("kind", "a function")
    settings = ", ".join(f"{name} {value}" for name, value in architecture.items())
    size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    return [
        f"scorer:         {directory} ({size / 1e6:.1f} MB)",
        f"images:         uint8 [N, {height}, {width}, {channels}]",
        f"flow:           {kind}, {_count(scorer.flow.variables):,} parameters ({settings})",
        f"encoder:        {scorer.encoder.name}, {_count(scorer.encoder.variables):,} parameters",
        f"memory bank:    {_bank(scorer.state.bank)}",
        f"noise strength: {float(scorer.state.noise_strength):.4g}",
        f"noise draws:    {scorer.draws}{', antithetic' if scorer.antithetic else ''}, seed "
        f"{scorer.seed}",
    ]


def _calibration(scorer: Scorer) -> list[str]:
    if scorer.calibration is None:
        return ["calibration:    none; scorer.calibrate(id_images) gives thresholds and p-values"]
    n = len(scorer.calibration)
    lines = [f"calibration:    {n:,} images"]
    for fpr in FPRS:
        low, high = conformal.realised_fpr(n, fpr)
        limit = scorer.threshold(fpr)
        spread = f"(this calibration set: {low:.2%} to {high:.2%} of ID images)"
        told = "too few images to vouch for" if high == 0 else f"score > {limit:.4f} {spread}"
        lines.append(f"  fpr {fpr:>4.0%}:     {told}")
    return lines


def _count(variables) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def _bank(bank) -> str:
    leaves = jax.tree.leaves(bank)
    size = sum(leaf.nbytes for leaf in leaves)
    arrays = ", ".join(f"{leaf.dtype} {list(leaf.shape)}" for leaf in leaves)
    return f"{arrays} ({size / 1e6:.1f} MB)"
