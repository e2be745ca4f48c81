"""The one exception users meet, those of damaged files, and what names alone tell or refuse."""

import lzma
import math
import numbers
import os
import stat
import tokenize
import zipfile
import zlib
from typing import Any

__all__ = [
    "UNREADABLE",
    "InputError",
    "check_path",
    "check_positive",
    "check_regular",
    "check_share",
    "check_text",
    "check_whole",
    "is_special",
    "out_of_memory",
    "readable",
    "visible",
]

# What reading a damaged, encrypted or oddly packed file may raise; InputError is caught before.
UNREADABLE = (
    *(OSError, ValueError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(SyntaxError, TypeError, OverflowError, tokenize.TokenError),  # numpy parses headers as Python
)


class InputError(ValueError):
    """An input that ecood refuses.

    The message is one sentence: what was given, what was expected and what to do.
    """


def out_of_memory(error: BaseException) -> str | None:
    """A sentence, if an error says that memory ran out, in Python's, numpy's or XLA's way."""
    told = str(error).split("\n")[0]
    if not (isinstance(error, MemoryError) or told.startswith("RESOURCE_EXHAUSTED")):
        return None
    reason = f" ({told.removesuffix('.')})" if told else ""
    return f"memory ran out{reason}; close other programs, or give fewer or smaller images."


def readable(text: str) -> str:
    """The text in one line: what cannot be printed, or turns its direction, as escapes.

    Names of files are data: they may hold newlines, codes that drive a terminal, or no text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible(name: str) -> str:
    """A name, in quotes if nothing of it shows."""
    return name if name.strip() else repr(name)


def check_whole(name: str, value: Any) -> None:
    """Refuses what is no whole number from 1 on; a truth value is none."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and value >= 1):
        raise InputError(f"{name} is {value!r}; expected a whole number, 1 or more.")


def check_share(
    name: str, share: Any, expected: str, *, none: bool = False, whole: bool = False
) -> float:
    """Refuses, by its name, what is no single number in (0, 1); with `none` 0, `whole` 1 is one."""
    number = _number(share)
    if not (0 < number < 1 or none and number == 0 or whole and number == 1):
        raise InputError(f"{name} is {share!r}; expected {expected}.")
    return number


def check_positive(name: str, value: Any) -> None:
    """Refuses, by its name, what is no single finite number above 0."""
    if not 0 < _number(value) < math.inf:
        raise InputError(f"{name} is {value!r}; expected a finite number above 0.")


def _number(value: Any) -> float:
    """A single number; NaN for anything else."""
    try:
        several = getattr(value, "ndim", 0) or isinstance(value, str | bytes | bool)
        return math.nan if several else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def check_path(path: Any, expected: str = "a path") -> None:
    """Refuses what is neither text nor a path; a number may name an open file to the system."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{path!r} is of the type {type(path).__name__}; expected {expected}.")


def check_text(path: str | os.PathLike) -> None:
    """Refuses a path that is no text, which the system takes, and the writer of checkpoints not."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{readable(str(path))} has a name that is no text in UTF-8, and no checkpoint can be "
            "written there; choose another directory."
        ) from error


def check_regular(path: str | os.PathLike) -> None:
    """Refuses what `is_special`."""
    if is_special(path):
        raise InputError(f"{path} is no regular file; copy what it holds to one, and give that.")


def is_special(path: str | os.PathLike) -> bool:
    """Whether it is a pipe, a socket or a device, which a reader may wait for for ever."""
    try:
        mode = os.stat(path).st_mode  # asked once: another process may move it meanwhile
    except (OSError, ValueError):  # it is not there, or no path
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
