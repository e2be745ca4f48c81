"""What a command must not write: what it reads, what it writes already, or an image to come."""

import os
import pathlib
from collections.abc import Iterable

from ecood.data.folder import SUFFIXES
from ecood.errors import InputError
from ecood.weights import check_writable, is_stream

__all__ = ["check", "check_new", "check_read", "check_text", "identities"]

Path = str | os.PathLike


def check(
    outputs: Iterable[Path | None], inputs: Iterable[Path | None], *, folder: bool = False
) -> None:
    """Refuses, before the work, files (or folders) to write that cannot be, or must not.

    An output is no input and no other output, and no picture in a folder of images: it would be
    one of them the next time. A folder to write holds no input. None stands for what is not given.
    """
    read = {os.path.realpath(path) for path in inputs if path is not None}
    written = set()
    for path in outputs:
        if path is None:
            continue
        check_writable(path, folder=folder)
        place = os.path.realpath(path)
        if is_stream(path) and not folder:
            continue  # which may take more than one
        picture = pathlib.Path(place).suffix.lower() in SUFFIXES
        if place in written:
            what = "this run writes, too"
        elif place in read or folder and any(_within(each, place) for each in read):
            what = "this run reads"
        elif picture and any(_within(place, each) for each in read):
            what = "would be one of the images of this folder the next time"
        else:
            written.add(place)
            continue
        raise InputError(f"cannot write {path}, which {what}; give another name.")


def check_new(out: Path) -> None:
    """Refuses a directory to write that is there."""
    if os.path.exists(os.path.realpath(out)):
        raise InputError(f"{out} is there already; remove it or choose another directory to write.")


def check_text(outputs: Iterable[Path | None]) -> None:
    """Refuses to write text under a picture's name, where a photograph may lie or be looked for."""
    for path in outputs:
        if path is not None and pathlib.Path(path).suffix.lower() in SUFFIXES:
            raise InputError(
                f"cannot write {path}, which is the name of a picture, and this is text; give "
                "another name."
            )


def _within(path: str, folder: str) -> bool:
    return pathlib.Path(path).is_relative_to(folder)


def identities(outputs: Iterable[Path | None]) -> dict[tuple[int, int], Path]:
    """The files to write that are there already, by what `check_read` knows them by."""
    there = (path for path in outputs if path is not None and os.path.isfile(path))
    return {_identity(path): path for path in there}


def check_read(path: str, written: dict[tuple[int, int], Path]) -> None:
    """Refuses a file that is read and written: of a list of paths, or found through a link."""
    if written and os.path.isfile(path) and (output := written.get(_identity(path))):
        raise InputError(
            f"cannot write {output}, which this run reads as {path}; give another name."
        )


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
