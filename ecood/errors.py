"""The one exception users meet, those of damaged files, and what names alone tell or refuse."""

import lzma
import numbers
import os
import tokenize
import zipfile
import zlib
from typing import Any

__all__ = ["UNREADABLE", "InputError", "check_regular", "check_whole", "readable"]

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


def readable(text: str) -> str:
    """The text in one line: what cannot be printed, or turns its direction, as escapes.

    Names of files are data: they may hold newlines, codes that drive a terminal, or no text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_whole(name: str, value: Any) -> None:
    """Refuses what is no whole number from 1 on; a truth value is none."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and value >= 1):
        raise InputError(f"{name} is {value!r}; expected a whole number, 1 or more.")


def check_regular(path: str | os.PathLike) -> None:
    """Refuses a pipe, a socket or a device, which a reader may wait for for ever."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{path} is no regular file; copy what it holds to one, and give that.")
