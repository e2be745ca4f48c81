"""Where rows of scores go: standard output, a device, or a file that appears when it is whole.

Until then its rows are kept beside it, as JSON with what tells each image's file from another,
under a name that says what made them, so that the same command goes on where it was interrupted,
was killed, or failed.
"""

import argparse
import contextlib
import csv
import glob
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TextIO

import jax

import ecood
from ecood import hosts, weights
from ecood.data import stream
from ecood.digests import digest
from ecood.errors import InputError
from ecood.progress import tell
from ecood.score import Program, Scorer
from ecood.words import number_of

__all__ = ["Done", "Output", "Row", "opened"]

Row = dict[str, Any]


class Done(NamedTuple):
    """An image that an earlier run scored, and whether it has a p-value."""

    path: str
    index: int
    score: float
    tested: bool


KEPT = "kept"  # the format of the rows beside an output
JSON_LINES = (".jsonl", ".ndjson")
# Names of files may hold bytes that are no text.
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}


class Output:
    """A file of rows, to which rows are added."""

    def __init__(self, file: TextIO, kind: str, done: list[Done]):
        """`done` are the rows that are there."""
        self.done, self.begun, self._file, self._kind = done, bool(done), file, kind
        # What appears when the rows are whole, or not at all, each by what writes it.
        self.files: dict[pathlib.Path, Callable[[pathlib.Path], None]] = {}

    def add(self, rows: list[Row]) -> None:
        """Writes rows of the same columns; the first makes the header."""
        _write(self._file, self._kind, rows, header=not self.begun)
        self._file.flush()
        self.begun = True


@contextlib.contextmanager
def opened(arguments: argparse.Namespace, scorer: Scorer | Program) -> Iterator[Output]:
    """The output that the command line asks for, and `Output.files` with it."""
    with _opened(arguments, scorer) as out:
        yield out
        weights.write_together(out.files)


@contextlib.contextmanager
def _opened(arguments: argparse.Namespace, scorer: Scorer | Program) -> Iterator[Output]:
    path, kind = arguments.out, _kind(arguments)
    if not hosts.is_first():
        with open(os.devnull, "w", **TEXT) as file:
            yield Output(file, kind, _agreed([]))
        return
    if path is None:
        yield Output(sys.stdout, kind, _agreed([]))
        return
    if weights.is_stream(path):
        with weights.open_stream(path, "w", newline="", **TEXT) as file:
            yield Output(file, kind, _agreed([]))
        return
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = weights.hidden(path, f"{_tag(path)}{_made_by(arguments, scorer)}.part")
    with part.open("a", newline="", **TEXT) as file:
        if weights.only_writer(file) is False or not part.exists():
            raise InputError(f"another process is writing {path}; wait for it.")
        out = Output(file, KEPT, [])
        out.begun = part.stat().st_size > 0
        try:
            out.done = _agreed(_kept(part))
            out.begun = bool(out.done)
            if out.begun:
                tell(f"resuming after {number_of(len(out.done), 'image')}")
            out.files[path] = lambda whole: _finish(part, kind, whole)
            yield out
        except BaseException:
            with contextlib.suppress(OSError):  # what did not fit on a full disk is tried again
                file.close()
            if out.begun and _resumes(arguments):
                tell("the scores so far are kept: run the same command again to resume")
            else:
                part.unlink()
            raise
        part.unlink()
    _remove_parts(path)


def _kind(arguments: argparse.Namespace) -> str:
    """The format that is asked for, or that the name of the output has, or CSV."""
    suffix = "" if arguments.out is None else arguments.out.suffix.lower()
    return arguments.format or ("jsonl" if suffix in JSON_LINES else "csv")


def _write(file: TextIO, kind: str, rows: Iterable[Row], *, header: bool) -> None:
    """Adds rows of the same columns, at least one; in CSV the first may make the header."""
    if kind != "csv":
        lines = ([_stamp(row["path"]), row] for row in rows) if kind == KEPT else rows
        file.writelines(json.dumps(line) + "\n" for line in lines)
        return
    rows = iter(rows)
    first = next(rows)
    if header:
        file.write(",".join(first) + "\n")
    # All text in quotes: a path may hold a carriage return, which csv else leaves bare.
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows(row.values() for row in itertools.chain([first], rows))


def _finish(part: pathlib.Path, kind: str, path: pathlib.Path) -> None:
    """Writes the rows that were kept as they were asked for."""
    with part.open("rb") as kept, path.open("w", newline="", **TEXT) as file:
        _write(file, kind, (json.loads(line)[1] for line in kept), header=True)


def _tag(path: pathlib.Path) -> str:
    """Tells apart outputs whose names begin alike, as a hidden name holds no more of them."""
    return digest(path.name)[:6]


def _remove_parts(path: pathlib.Path) -> None:
    """Removes the rows that runs which are gone kept beside an output."""
    name = glob.escape(weights.hidden(path, _tag(path)).name)
    found = path.parent.glob(f"{name}{'[0-9a-f]' * 12}.part")
    for part in filter(pathlib.Path.is_file, found):
        # What is gone or may not be opened is another process's.
        with contextlib.suppress(OSError), part.open("rb+") as file:
            if weights.only_writer(file):
                part.unlink()


def _agreed(done: list[Done]) -> list[Done]:
    """What the first of several processes finds done: all of them leave it out."""
    return [Done(*each) for each in hosts.agree(done)]


def _resumes(arguments: argparse.Namespace) -> bool:
    return stream.STDIN not in arguments.paths  # whose list may be another one


def _made_by(arguments: argparse.Namespace, scorer: Scorer | Program) -> str:
    """Tells apart rows that other files, scorers, settings or versions would have made."""
    settings = [arguments.key, arguments.fpr, arguments.resize]
    settings += [
        [(path, _file(path)) for path in arguments.paths],
        arguments.embeddings and _file(arguments.embeddings),
        os.path.realpath(arguments.out),
        scorer.identity,
        [ecood.__version__, jax.__version__],
        None if _resumes(arguments) else os.getpid(),
    ]
    return digest(settings, scorer.calibration)[:12]


def _file(path: str | os.PathLike) -> tuple[str, list[int]]:
    """Which file or folder it is, wherever the command runs; of a file also its stamp."""
    place = os.path.realpath(path)
    return place, _stamp(place) if os.path.isfile(place) else []


def _stamp(path: str) -> list[int]:
    """What tells a file from another one under its name, or from itself before it was changed."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _kept(part: pathlib.Path) -> list[Done]:
    """The rows of a run that did not end, up to a file that is gone or another one since.

    A row that a kill cut short is cut off, and so are all from that file on.
    """
    done, whole = [], 0
    with part.open("rb+") as file:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for line in file:
                stamp, row = json.loads(line)
                tested = row["p_value"] is not None
                entry = Done(row["path"], int(row["index"]), float(row["score"]), tested)
                if not (line.endswith(b"\n") and stamp and stamp == _stamp(row["path"])):
                    break
                done.append(entry)
                whole += len(line)
        file.truncate(whole)
    return done
