"""The likelihood gap before and after noise, against what the theory promises.

    python -m experiments.likelihood_gap --quick

Three sections, each with a figure and tables: (a) Gaussians, where all is closed form; (b) a model
fitted to draws of a known law of the plane, so that every entropy is exact; (c) the shipped flows
on real pairs of image sets. Writes `report.json`, `report.md` and the figures. The statements are
in docs/theory.md.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import jax

from experiments import report
from experiments.likelihood_gap import gaussian, images, plane


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    names = "experiments.likelihood_gap", __doc__, "runs/likelihood_gap"
    parser = report.parser(*names, "imagenet32", "ood", data="embedded")  # the images of (c)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer draws and images, a coarser grid")
    add("--seed", type=int, default=0, help="of every draw (default: 0)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Runs the sections and writes the report."""
    every = {"gaussian": gaussian, "plane": plane, "images": images}
    done, lines = {}, ["# The likelihood gap under noise", ""]
    for index, (name, section) in enumerate(every.items()):
        print(f"section {name}", flush=True)
        # The theory is checked in float64; (c) turns it off, as flows are float32.
        with jax.enable_x64(True):
            key = jax.random.fold_in(jax.random.key(arguments.seed), index)
            done[name] = section.run(key, arguments)
        lines += page(done[name])
    also = [section["figure"] for section in done.values()]
    report.write(arguments, {"sections": done}, lines, also=also)


def page(section: Mapping[str, Any]) -> list[str]:
    """The Markdown lines of a section; a table's rows are dicts with the columns for keys."""
    blocks = [f"## {section['title']}", section["text"], f"![]({section['figure']})"]
    for table in section["tables"]:
        header, rows = list(table["rows"][0]), [map(_cell, row.values()) for row in table["rows"]]
        blocks += [table["caption"], report.table(header, rows)]
    return report.paragraphs(*blocks, "")


def _cell(value: Any) -> str:
    """A tuple is a value and its standard error."""
    parts = value if isinstance(value, tuple) else (value,)
    texts = (f"{part:.3f}" if isinstance(part, float) else str(part) for part in parts)
    return "never" if value is None else " ± ".join(texts)


if __name__ == "__main__":
    report.main(run, build_parser())
