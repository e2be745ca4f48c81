"""What every experiment shares: its command line, how a run is identified, the report's files."""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

import ecood
from ecood import devices, hosts, programs, provenance
from ecood.cli import clash
from ecood.cli.ending import ending
from ecood.data import prepared
from ecood.evaluation.sets import OOD_OF
from ecood.signals import Signals
from ecood.weights import atomic_path, check_writable

OPTIONS = {  # of several experiments, on which images they see
    "limit": {"type": int, "help": "test images of each set at most (default: %(default)s)"},
    "imagenet32": {"help": "an .npz file with a `test` array of 32x32 ImageNet crops"},
    "id": {"nargs": "+", "choices": list(OOD_OF), "help": "these ID sets only (default: all)"},
    "ood": {
        "metavar": "FILE",
        "help": "more OOD sets, for the ID sets of their shape: an .npz file, each array in it a "
        "set; or hf:OWNER/NAME",
    },
}


def parser(
    module: str,
    description: str,
    out: str | None = None,
    *options: str,
    data: str | None = None,
    limit: int | None = None,
) -> argparse.ArgumentParser:
    """A module's command line: `--out` and `--data` where a default is given, and `OPTIONS`."""
    layout = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(f"python -m {module}", None, description, formatter_class=layout)
    add = made.add_argument
    if data:
        add("--data", default=data, help=f"auto, embedded, tfds, hf:OWNER/NAME or a path ({data})")
    for name in options:
        add(f"--{name}", **OPTIONS[name])
    if limit:
        made.set_defaults(limit=limit)
    if out:
        what = f"the report's folder (default: {out})"
        add("--out", type=pathlib.Path, default=pathlib.Path(out), help=what)
    return made


def of_id(word: str) -> tuple[str, str]:
    """A command line's word ID=VALUE, as the `type` of an option."""
    name, equals, value = word.partition("=")
    if not equals or name not in OOD_OF:
        wanted = f"expected ID=VALUE with ID one of {', '.join(OOD_OF)}"
        raise argparse.ArgumentTypeError(f"{word!r}; {wanted}")
    return name, value


def main(run: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parses, runs and exits; what is refused is one sentence (`ecood.cli.ending`)."""
    arguments = parser.parse_args()

    def work() -> int:
        programs.keep()
        with hosts.together(parser.prog):
            devices.check()
            if getattr(arguments, "out", None) is not None:
                _check_out(arguments.out, getattr(arguments, "data", None))
            run(arguments)
        return 0

    with Signals(parser.prog):
        code = ending(parser.prog, work)
    if code:
        sys.exit(code)


def _check_out(out: pathlib.Path, source: str | None) -> None:
    """Refuses, before the work, what cannot be written, and figures in a folder of images."""
    check_writable(out, folder=True)
    if source is not None and not prepared.names(pathlib.Path(source)):
        clash.check([out / "report.png"], [source])


def write(
    arguments: argparse.Namespace,
    result: Mapping[str, Any],
    page: Iterable[str],
    *,
    files: tuple[str, str] = ("report.json", "report.md"),
    also: Sequence[str] = (),
    printed: str | None = None,
) -> None:
    """Writes numbers (JSON values) and page (Markdown lines) to `--out`, and prints the page.

    What identifies the run is added to both. `also` names what else was written there; `printed`
    is printed instead of the page.
    """
    run = identify(arguments)
    told = f"Command: `{run['command']}`, ecood {ecood.__version__}, jax {jax.__version__}, "
    told += f"git {run['git_revision']}, {run['date']}."
    text = "\n".join([*page, "", told, ""])
    write_json(arguments.out / files[0], {**result, **run})
    _write_text(arguments.out / files[1], text)
    wrote = f"wrote {', '.join([*also, *files])} to {arguments.out}"
    print(f"{text}\n{wrote}" if printed is None else printed)


def paragraphs(*blocks: str | Sequence[str]) -> list[str]:
    """Markdown lines of texts and lists of lines, with an empty line between them."""
    lines = []
    for block in blocks:
        lines += [block, ""] if isinstance(block, str) else [*block, ""]
    return lines[:-1]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table, one line a row."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(map(str, cells))} |" for cells in lines]


def estimate(value: float, interval: Sequence[float], digits: int = 3, mark: str = "") -> str:
    """A number and its interval, as `0.985 [0.978, 0.990]`."""
    low, high = interval
    return f"{mark}{value:.{digits}f}{mark} [{low:.{digits}f}, {high:.{digits}f}]"


def title(name: str) -> str:
    """A detector's name as a reader would write it."""
    return name.replace("_", " ").replace("spem", "SPEM").replace("waic", "WAIC")


def identify(arguments: argparse.Namespace) -> dict[str, Any]:
    """What identifies a run: command, settings, versions, machine, git revision, date."""
    return provenance.identify(vars(arguments), pathlib.Path(__file__).parent)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON atomically."""
    _write_text(path, json.dumps(value, indent=1) + "\n")


def _write_text(path: pathlib.Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
