"""The command line, `python -m ecood`: score, report, fit, look into a detector, import a flow.

Exit codes: 0, all is well; 1, some images were damaged and passed over; 2, the input was refused,
or the output could not be written, with one sentence on standard error; 130, interrupted; 141,
whoever read the output closed it.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

from ecood.cli import convert, fit, info, report, score
from ecood.errors import InputError

__all__ = ["main"]

COMMANDS = {"score": score, "report": report, "fit": fit, "info": info, "import": convert}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m ecood", description=__doc__, **raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        first, *_ = command.__doc__.splitlines()
        command.add_arguments(
            commands.add_parser(name, help=first, description=command.__doc__, **raw)
        )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command of a command line, the process's own if None; returns the exit code."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold bytes that are no text
            stream.reconfigure(errors="surrogateescape")
    try:
        arguments = build_parser().parse_args(words)
        return COMMANDS[arguments.command].run(arguments)
    except InputError as error:
        print(f"python -m ecood: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of the output: a full disk, say
        # What waits to be flushed would fail again when the interpreter ends.
        with contextlib.suppress(OSError):  # where standard output is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever reads the output closed it, as `head` does
            return 141
        print(f"python -m ecood: writing failed ({error.strerror or error}).", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("python -m ecood: interrupted", file=sys.stderr)
        return 130
