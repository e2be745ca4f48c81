"""The likelihood gap before and after noise, against what the theory promises.

    python -m experiments.likelihood_gap
    python -m experiments.likelihood_gap --quick

Three sections, each with a figure and a table. (a) Gaussians, where all is closed form: where the
paradox appears, where entropy control repairs it, where it cannot. (b) A flow trained on a known
density of the plane, so that every entropy is exact: each term of the gap, before and after noise,
against the bounds. (c) The shipped flows on real pairs of image sets: the measured gap over the
noise strength against what the bounds predict. Writes `report.json`, `report.md` and the figures.
The statements are in docs/theory.md.
"""

import argparse
import functools
import pathlib
from typing import Any

import jax

from experiments import gap_gaussian, gap_images, gap_plane, report


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.likelihood_gap", __doc__)
    add = parser.add_argument
    add("--data", default="embedded", help="images of (c): auto, embedded, tfds or a path")
    add("--imagenet32", help="for (c): an .npz file with a `test` array of 32x32 ImageNet crops")
    add("--quick", action="store_true", help="fewer draws, a shorter training: seconds, rougher")
    add("--seed", type=int, default=0, help="of every draw (default: 0)")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/likelihood_gap"),
        help="the report's folder (default: runs/likelihood_gap)",
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Runs the sections and writes the report."""
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    identity = report.identify(arguments)
    sections = {}
    images = functools.partial(
        gap_images.run, source=arguments.data, imagenet32=arguments.imagenet32
    )
    every = {"gaussian": gap_gaussian.run, "plane": gap_plane.run, "images": images}
    for index, (name, section) in enumerate(every.items()):
        print(f"section {name}", flush=True)
        # The theory's checks are in float64; the flow inside is float32, as flows are.
        with jax.enable_x64(True):
            key = jax.random.fold_in(jax.random.key(arguments.seed), index)
            sections[name] = section(key, out, arguments.quick)
    report.write_json(out / "report.json", {"sections": sections, **identity})
    text = markdown(sections, identity)
    report.write_text(out / "report.md", text)
    print(text)
    print(f"wrote {out}/report.json, report.md and a figure for each section")


def markdown(sections: dict[str, Any], identity: dict[str, Any]) -> str:
    """The report as a page."""
    lines = ["# The likelihood gap under noise", ""]
    for section in sections.values():
        lines += [f"## {section['title']}", "", section["text"], "", f"![]({section['figure']})"]
        for table in section["tables"]:
            lines += ["", table["caption"], "", *_table(table["rows"])]
        lines += [""]
    lines += [
        f"Command: `{identity['command']}`, seed {identity['settings']['seed']}, ecood "
        f"{identity['versions']['ecood']}, jax {identity['versions']['jax']}, git "
        f"{identity['git_revision']}, {identity['date']}.",
        "",
    ]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    head = list(rows[0])
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' for _ in head)} |",
        *(f"| {' | '.join(_cell(row[name]) for name in head)} |" for row in rows),
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "never"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):  # a value and its standard error, or an interval
        return " ± ".join(f"{part:.3f}" for part in value)
    return str(value)


if __name__ == "__main__":
    report.main(run, build_parser())
