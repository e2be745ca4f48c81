"""Images one at a time, from folders, files, arrays and lists, in bounded memory.

| path | what it gives |
| --- | --- |
| a folder | the image files in it, at any depth, by name; links are followed |
| an image file | that image |
| an `.npy` file | the images of its array, uint8 [N, H, W, C] or [N, H, W] |
| an `.npz` file | those of the array under the key, or of the only one of images |
| `-` | what the paths on standard input give, one a line, or each ended by NUL (`find -print0`) |

What is wrong with a path that was asked for stops the reading with an `InputError`;
a wrong image of many, or line of standard input, is told and passed over.
"""

import contextlib
import io
import math
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, TextIO

import numpy as np
from numpy.lib import format

from ecood.data.arrays import SUFFIXES as ARRAYS
from ecood.data.arrays import check_stored, opened
from ecood.data.decode import decode_file
from ecood.data.folder import SUFFIXES as IMAGES
from ecood.data.folder import image_files
from ecood.errors import UNREADABLE, InputError, is_special, visible
from ecood.words import number_of

__all__ = ["STDIN", "Item", "check", "count", "counted", "read"]

STDIN = "-"
HEADERS = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}
LONGEST = 4096  # letters of a path; Linux takes no more bytes
CHUNK = 2**20  # bytes of an array that are read at once
SUFFIXES_TOLD = 10  # one by one


class Item(NamedTuple):
    """One image, or why there is none."""

    path: str
    index: int  # which image of that file, from 0
    image: np.ndarray | None  # uint8 [H, W, C]
    problem: str | None = None  # one sentence if there is no image
    count: int = 1  # images that it is, or that the problem costs; 0 for a remark
    others: Mapping[str, int] | None = None  # of a remark: files that are not taken, by suffix


Source = tuple[int, str, Iterator[Item]]  # how many images a file holds, its path, the images


def check(paths: Sequence[str], key: str | None = None) -> None:
    """Refuses, before any image is read, paths that do not exist or hold no images.

    And a key that no path could have.
    """
    if key is not None and not any(p == STDIN or p.lower().endswith(".npz") for p in paths):
        raise InputError(f"--key is {visible(key)}, and no .npz file is given; leave it out.")
    for path in paths:
        if path != STDIN:
            next(_sources(path, key))


def count(paths: Iterable[str], key: str | None = None) -> int | None:
    """How many images `read` will give, damaged ones included; None for standard input."""
    paths = list(paths)
    if STDIN in paths:
        return None
    return sum(number for path in paths for number, _, _ in _sources(path, key))


def read(
    paths: Iterable[str],
    key: str | None = None,
    known: Callable[[str, int], bool] = lambda path, index: False,
) -> Iterator[Item]:
    """Reads images of any size in turn; `key` is that of those in `.npz` files.

    Images that are `known`, by path and index, are left out, and their files not decoded; it is
    asked once about each.
    """
    for path in paths:
        found = _listed(key) if path == STDIN else _sources(path, key)
        for number, file, items in found:
            if number == 1:
                yield from () if known(file, 0) else items
            else:
                yield from (i for i in items if i.problem is not None or not known(i.path, i.index))


def _listed(key: str | None) -> Iterator[Source]:
    for path in _paths(sys.stdin):
        try:
            for number, file, items in _sources(path, key):
                yield number, file, _or_why_not(path, items)
        except InputError as error:
            yield 1, path, iter([Item(path, 0, None, str(error))])


def _paths(file: TextIO | None) -> Iterator[str]:
    """The paths of a list, each as soon as it is there; of one with NULs, they end each path."""
    if file is None:  # it is closed
        return
    start = file.buffer.peek() if isinstance(file, io.TextIOWrapper) else b""
    end, path = "\0" if b"\0" in start else "\n", ""
    while text := file.readline(LONGEST):
        *paths, path = (path + text).split(end)
        yield from (each.removesuffix("\r") if end == "\n" else each for each in paths if each)
        if len(path) >= LONGEST:
            raise InputError(
                f"standard input has {LONGEST:,} letters on end that no path ends among; expected "
                "a list of paths, one a line, or each ended by NUL."
            )
    if path:
        yield path


def _or_why_not(path: str, items: Iterator[Item]) -> Iterator[Item]:
    try:
        yield from items
    except InputError as error:
        yield Item(path, 0, None, str(error))


def _sources(path: str, key: str | None) -> Iterator[Source]:
    """The files of a path, and their images, not read yet."""
    suffix = Path(path).suffix.lower()
    if os.path.isdir(path):
        yield from _folder(path)
    elif not os.path.isfile(path):
        what = "no regular file" if is_special(path) else "not there"
        raise InputError(
            f"{visible(path)} is {what}; expected a folder of images, an image file, or an .npy or "
            ".npz file: check the path."
        )
    elif suffix in ARRAYS:
        with _opened(path, key) as (_, shape):
            total = shape[0]
        yield total, path, _rows(path, key)
    elif suffix in IMAGES:
        yield 1, path, _file(path)
    else:
        raise InputError(
            f"{path} is no file of images; expected a folder, or a file ending in "
            f"{', '.join((*IMAGES, *ARRAYS))}."
        )


def _folder(path: str) -> Iterator[Source]:
    errors: list[OSError] = []
    others: Counter[str] = Counter()
    empty = True
    for file in image_files(path, errors.append, others):
        empty = False
        yield 1, file, _file(file)
    for error in errors:
        problem = f"the folder {error.filename} cannot be read ({error.strerror})."
        if error.filename == path:
            raise InputError(problem) from error
        empty = False
        yield 1, error.filename, iter([Item(error.filename, 0, None, problem)])
    told = counted(others)
    if empty:
        raise InputError(
            f"the folder {path} holds no images{f' (but {told})' if told else ''}; expected files "
            f"ending in {', '.join(IMAGES)}."
        )
    if told:
        remark = f"not taken from {path}: {told}"
        yield 0, path, iter([Item(path, 0, None, remark, 0, others)])


def counted(others: Mapping[str, int]) -> str:
    """Files by suffix in words, the most frequent ones one by one."""
    most = Counter(others).most_common(SUFFIXES_TOLD)
    told = [f"{count} {kind}" for kind, count in sorted(most)]
    rest = sum(others.values()) - sum(count for _, count in most)
    return ", ".join([*told, f"{rest} of other suffixes"] if rest else told)


def _file(path: str) -> Iterator[Item]:
    try:
        yield Item(path, 0, decode_file(path))
    except InputError as error:
        yield Item(path, 0, None, str(error))


def _rows(path: str, key: str | None) -> Iterator[Item]:
    """The images of an array, read as they are needed."""
    with _opened(path, key) as (file, (total, *row)):
        size = math.prod(row)
        at_once = max(1, CHUNK // size)
        for start in range(0, total, at_once):
            wanted = min(at_once, total - start)
            arrived, failure = _up_to(file, wanted * size)
            whole = len(arrived) // size
            images = np.frombuffer(arrived, np.uint8, whole * size).reshape(whole, *row)
            for index, image in enumerate(images, start):
                yield Item(path, index, image)
            if whole < wanted:
                first = start + whole
                problem = f"{path} is damaged from image {first} on ({failure}); save it again."
                yield Item(path, first, None, problem, total - first)
                return


@contextlib.contextmanager
def _opened(path: str, key: str | None) -> Iterator[tuple[IO[bytes], list[int]]]:
    """The bytes of an array of images, and its shape [N, H, W, C]."""
    with opened(path, partial(_choose, path, key)) as (file, what):
        shape, fortran = _header(file, what)
        if fortran:
            raise InputError(
                f"{what.removesuffix(',')} is in Fortran order, in which no image is in one "
                "piece; save numpy.ascontiguousarray(images)."
            )
        yield file, shape


def _choose(path: str, key: str | None, archive: zipfile.ZipFile, held: list[str]) -> str:
    keys = ", ".join(held) or "(none)"
    if key is not None:
        if key not in held:
            raise InputError(
                f"{path} holds the keys {keys}; expected {visible(key)}: give one of them."
            )
        return key
    fitting = [each for each in held if _holds_images(archive, f"{each}.npy")]
    if not fitting and len(held) < 2:
        if not held:
            raise InputError(f"{path} holds no arrays; expected one of images, uint8 [N, H, W, C].")
        return held[0]  # what is wrong with it is told where it is opened
    if len(fitting) != 1:
        raise InputError(
            f"{path} holds the keys {keys}, and images under {len(fitting)} of them; say which one "
            "to read with --key."
        )
    return fitting[0]


def _holds_images(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as file:
            _header(file, name)
    except UNREADABLE:  # an InputError is one, too
        return False
    return True


def _header(file: IO[bytes], what: str) -> tuple[list[int], bool]:
    """[N, H, W, C], if an array's header is of images, and whether it is in Fortran order."""
    version = format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"its format {version} is unknown")
    shape, fortran, dtype = HEADERS[version](file)
    if dtype != np.uint8:
        raise InputError(
            f"{what} is {dtype}; expected uint8 [N, H, W, C] with pixel values 0 to 255: convert "
            "it and save it again."
        )
    return list(check_stored(np.broadcast_to(np.uint8(0), shape), what).shape), fortran


def _up_to(file: IO[bytes], size: int) -> tuple[bytes, str]:
    """`size` bytes, or those that can be read and why there are no more."""
    parts, missing, failure = [], size, ""
    while missing and not failure:
        try:
            part = file.read1(missing)
            parts.append(part)
            missing -= len(part)
            failure = "" if part else f"{number_of(missing, 'byte is', 'bytes are')} missing"
        except UNREADABLE as error:
            failure = str(error) or type(error).__name__
    return b"".join(parts), failure
