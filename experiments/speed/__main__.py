"""How fast the flows, the memory bank and the detection path are, each against a peer.

    python -m experiments.speed
    python -m experiments.speed --what flow --json

- flow: Glow's scoring (log-densities) and training steps (loss, gradient, Adam's update) against
  `normflows`, the same architecture in PyTorch on the CPU: L=3 levels of 32 x 32 x 3 images, 64 a
  batch, at two sizes, in float32 and bfloat16. It also measures one large matrix product, and says
  which share of its rate the flow reaches.
- bank: 1,000 queries against banks of 50,000 and 1,000,000 embeddings of length 384 against
  faiss-cpu's `IndexFlatIP` (7 GB of memory for the larger bank).
- path: the detection path of each shipped scorer against likelihood plus encoder, and what
  similarity and perturbation add to the two likelihoods of its own form.

Ours and the peer's run turn by turn in one process, each once untimed and once under the clock, and
the medians are reported. A ratio above one says that ours is faster, and by how much. Nothing is
installed: what a part needs and cannot find, it names. Leave the machine alone meanwhile.
"""

import argparse
import json
import os
import pathlib
import sys
from typing import Any

from ecood.errors import InputError
from experiments import report
from experiments.speed import bank, flow, path

PARTS = {"flow": flow.rows, "bank": bank.rows, "path": path.rows}
BUSY = 0.5  # programs that want to run; they would slow ours and the peer's unequally


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.speed", __doc__)
    add = parser.add_argument
    add("--what", choices=(*PARTS, "all"), default="all", help="which part (default: all)")
    add("--json", action="store_true", help="print the rows as JSON instead of a table")
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/speed"), help="where to write")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the machine is busy (load {load:.1f}): measure when it is idle", file=sys.stderr)
    rows = measure(arguments.what)
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))
    report.write_json(arguments.out / "report.json", {"rows": rows, **report.identify(arguments)})
    report.write_text(arguments.out / "report.md", table(rows) + "\n")


def measure(what: str = "all") -> list[dict[str, Any]]:
    """The rows of one part, or of all whose peers are installed.

    Raises:
      InputError: if the part's peer is not installed.
    """
    rows = []
    for part, measure_part in PARTS.items():
        if what not in (part, "all"):
            continue
        print(f"measuring: {part}", file=sys.stderr)
        try:
            rows += measure_part()
        except InputError as error:
            if what == part:
                raise
            print(f"{part} is left out: {error}", file=sys.stderr)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one line a row."""
    lines = [
        "| what | peer | unit | ours | peer's | times as fast | share of peak |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        numbers = f"{row['ours']:.4g} | {row['theirs']:.4g} | {row['ratio']:.2f}"
        share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
        lines.append(f"| {row['what']} | {row['peer']} | {row['unit']} | {numbers} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    report.main(run, build_parser())
