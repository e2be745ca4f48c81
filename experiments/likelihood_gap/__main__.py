"""The likelihood gap before and after noise, against what the theory promises.

    python -m experiments.likelihood_gap
    python -m experiments.likelihood_gap --quick

Three sections, each with a figure and a table. (a) Gaussians, where all is closed form: where the
paradox appears, where entropy control repairs it, where it cannot. (b) A model fitted to draws of a
known law of the plane, so that every entropy is exact: each term of the gap, before and after
noise, against the bounds. (c) The shipped flows on real pairs of image sets: the measured gap over
the noise strength against what the bounds predict. Writes `report.json`, `report.md` and the
figures. The statements are in docs/theory.md.
"""

import argparse
import functools

import jax

from experiments import report
from experiments.likelihood_gap import gaussian, images, plane, sections


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.likelihood_gap", __doc__, out="runs/likelihood_gap")
    add = parser.add_argument
    add("--data", default="embedded", help="images of (c): auto, embedded, tfds or a path")
    add("--imagenet32", help="for (c): an .npz file with a `test` array of 32x32 ImageNet crops")
    add("--quick", action="store_true", help="fewer draws and images, a coarser grid")
    add("--seed", type=int, default=0, help="of every draw (default: 0)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Runs the sections and writes the report."""
    every = {
        "gaussian": gaussian.run,
        "plane": plane.run,
        "images": functools.partial(images.run, arguments.data, arguments.imagenet32),
    }
    done, page = {}, ["# The likelihood gap under noise", ""]
    for index, (name, section) in enumerate(every.items()):
        print(f"section {name}", flush=True)
        # The theory is checked in float64; (c) turns it off, as flows are float32.
        with jax.enable_x64(True):
            key = jax.random.fold_in(jax.random.key(arguments.seed), index)
            done[name] = section(key, arguments.out, arguments.quick)
        page += sections.page(done[name])
    also = [section["figure"] for section in done.values()]
    report.write(arguments, {"sections": done}, page, also=also)


if __name__ == "__main__":
    report.main(run, build_parser())
