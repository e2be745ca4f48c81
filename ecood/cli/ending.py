"""How a command ends: by its own exit code, or by one sentence and that of what went wrong."""

import contextlib
import os
import sys
from collections.abc import Callable

from ecood.errors import InputError, out_of_memory, readable

__all__ = ["ending"]


def ending(program: str, work: Callable[[], int]) -> int:
    """The exit code of some work of a program; what it refuses, or cannot write, is told."""
    try:
        return work()
    except InputError as error:
        return _refuse(program, str(error))
    except OSError as error:  # of the output: a full disk, say
        # What waits to be flushed would fail again when the interpreter ends.
        with contextlib.suppress(OSError, AttributeError):  # where standard output is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever reads the output closed it, as `head` does
            return 141
        return _refuse(program, f"{_place(error)} failed ({error.strerror or error}).")
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (told := out_of_memory(error)) is None:
            raise
        return _refuse(program, told)


def _place(error: OSError) -> str:
    try:
        os.getcwd()
    except FileNotFoundError:
        return "finding the current directory, which was removed,"
    return (
        "writing the output" if error.filename is None else f"opening or reading {error.filename}"
    )


def _refuse(program: str, sentence: str) -> int:
    with contextlib.suppress(OSError):  # whoever reads standard error closed it
        print(f"{program}: {readable(sentence)}", file=sys.stderr)
    return 2
