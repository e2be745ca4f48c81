"""Where rows of scores go: standard output, a device, or a file that appears when it is whole.

Until then its rows are kept beside it, under a name that says what made them, so that the same
command, interrupted or killed, goes on where it was.
"""

import argparse
import contextlib
import csv
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from ecood import hosts, weights
from ecood.data import stream
from ecood.digests import digest
from ecood.errors import InputError
from ecood.progress import tell
from ecood.score import Program, Scorer
from ecood.words import number_of

__all__ = ["Done", "Output", "Row", "opened"]

Row = dict[str, Any]
Done = list[tuple[tuple[str, int], float]]  # path and index of each image, and its score
# Names of files may hold bytes that are no text.
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}


class Output:
    """A file of rows, to which rows are added."""

    def __init__(self, file: TextIO, kind: str, done: Done):
        """`done` are the rows that are there."""
        self.done, self._file, self._kind = done, file, kind
        self._write: Callable[[list[Row]], None] | None = None

    def add(self, rows: list[Row]) -> None:
        """Writes rows of the same columns; the first makes the header."""
        if self._kind == "jsonl":
            self._file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            if not self.done and self._write is None:
                self._file.write(",".join(rows[0]) + "\n")
            # All text in quotes: a path may hold a carriage return, which csv else leaves bare.
            options = {"lineterminator": "\n", "quoting": csv.QUOTE_NONNUMERIC}
            self._write = self._write or csv.DictWriter(self._file, rows[0], **options).writerows
            self._write(rows)
        self._file.flush()


@contextlib.contextmanager
def opened(arguments: argparse.Namespace, scorer: Scorer | Program) -> Iterator[Output]:
    """The output that the command line asks for."""
    path, kind = arguments.out, arguments.format
    if not hosts.is_first():
        with open(os.devnull, "w", **TEXT) as file:
            yield Output(file, kind, _agreed([]))
        return
    if path is None:
        yield Output(sys.stdout, kind, _agreed([]))
        return
    if path.exists() and not path.is_file():  # a device or pipe
        with path.open("w", newline="", **TEXT) as file:
            yield Output(file, kind, _agreed([]))
        return
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = weights.hidden(path, f"{_made_by(arguments, scorer)}.part")
    with part.open("a", newline="", **TEXT) as file:
        if not (weights.only_writer(file) and part.exists()):
            raise InputError(f"another process is writing {path}; wait for it.")
        try:
            if done := _agreed(_kept(part, kind)):
                tell(f"resuming after {number_of(len(done), 'image')}")
            yield Output(file, kind, done)
            os.replace(part, path)
        except BaseException as error:
            with contextlib.suppress(OSError):  # what did not fit on a full disk is tried again
                file.close()
            if isinstance(error, KeyboardInterrupt) and part.stat().st_size and _resumes(arguments):
                tell("the scores so far are kept: run the same command again to resume")
            else:
                part.unlink()
            raise


def _agreed(done: Done) -> Done:
    """What the first of several processes finds done: all of them leave it out."""
    return [((path, index), score) for (path, index), score in hosts.agree(done)]


def _resumes(arguments: argparse.Namespace) -> bool:
    return stream.STDIN not in arguments.paths  # whose list may be another one


def _made_by(arguments: argparse.Namespace, scorer: Scorer | Program) -> str:
    """Tells apart rows that other files, another scorer, or other settings would have made."""
    settings = [arguments.key, arguments.format, arguments.fpr, arguments.resize]
    settings += [
        [(path, _file(path)) for path in arguments.paths],
        _file(arguments.embeddings or ""),
        os.path.realpath(arguments.out),
        scorer.identity,
        None if _resumes(arguments) else os.getpid(),
    ]
    return digest(settings, scorer.calibration)[:12]


def _file(path: str | os.PathLike) -> tuple[str, list[int]]:
    """Which file or folder it is, wherever the command runs; of a file also its size and time."""
    place = os.path.realpath(path)
    status = os.stat(place) if os.path.isfile(place) else None
    return place, [status.st_size, status.st_mtime_ns] if status else []


def _changed(path: str, since: int) -> bool:
    """Whether a file is gone, or was written or replaced, from a time on."""
    try:
        status = os.stat(path)
    except OSError:
        return True
    return max(status.st_mtime_ns, status.st_ctime_ns) >= since


def _kept(part: pathlib.Path, kind: str) -> Done:
    """The whole rows of an interrupted run, up to a file that has changed since.

    A row that a kill cut short is cut off, and so are all from that file on.
    """
    done, read, whole, ended, since = [], 0, 0, True, part.stat().st_mtime_ns

    def lines() -> Iterator[str]:
        nonlocal read, ended
        for line in file:
            read, ended = read + len(line), line.endswith(b"\n")
            yield line.decode(**TEXT)

    with part.open("rb+") as file:
        rows = map(json.loads, lines()) if kind == "jsonl" else csv.DictReader(lines())
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for row in rows:
                key, score = (row["path"], int(row["index"])), float(row["score"])
                if not ended or _changed(row["path"], since):
                    break
                done.append((key, score))
                whole = read
        file.truncate(whole)
    return done
