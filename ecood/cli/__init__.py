"""The command line, `python -m ecood`. A command is imported when it is chosen."""

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence

import ecood
from ecood.cli.ending import ending

__all__ = ["main"]

COMMANDS = {  # what each does, and its module here
    "score": ("score images: a folder, an array file, image files, or a list of paths", "score"),
    "report": ("one HTML file that shows which images, why, and where", "report"),
    "fit": ("fit a detector to your own in-distribution images", "fit"),
    "calibrate": ("calibrate a scorer on your own in-distribution images", "calibrate"),
    "info": ("tell what a scorer is made of", "info"),
    "export": ("write a scorer as one file that runs without ecood", "export"),
    "prepare": ("download data sets and prepare them in TFDS's format", "prepare"),
    "import": ("make a flow of a checkpoint that other people published", "convert"),
}
TOGETHER = ("score", "report", "fit", "calibrate")  # take part in what several processes compute
ABOUT = """Score, report, fit a detector to your images, calibrate, look into or export one, prepare
data, or import a flow.

Exit codes: 0, all is well; 1, some images were damaged and passed over; 2, the input was refused,
or the output could not be written, with one sentence on standard error; 130, interrupted (143,
terminated; 129, hung up); 141, whoever read the output closed it."""


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The command line, with the arguments of the chosen command alone."""
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m ecood", description=ABOUT, **raw)
    parser.add_argument("--version", action="version", version=f"ecood {ecood.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (about, module) in COMMANDS.items():
        if name != chosen:
            commands.add_parser(name, help=about)
            continue
        command = importlib.import_module(f"ecood.cli.{module}")
        sub = commands.add_parser(name, help=about, description=command.__doc__ or about, **raw)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(
    words: Sequence[str] | None = None, working: contextlib.AbstractContextManager | None = None
) -> int:
    """Runs the command of a command line, the process's own if None; returns the exit code.

    `working` is entered when all is imported and the work begins.
    """
    words = sys.argv[1:] if words is None else words
    # Names of files may hold bytes that are no text, or letters that the locale does not know.
    for stream, encoding in ((sys.stdin, sys.getfilesystemencoding()), (sys.stdout, "utf-8")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="surrogateescape")

    def work() -> int:
        chosen = words[0] if words and words[0] in COMMANDS else None
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # see ecood.programs; before jax
        arguments = build_parser(chosen).parse_args(words)
        from ecood import hosts, programs  # and jax

        programs.keep()
        several = hosts.together("python -m ecood")
        with (
            working or contextlib.nullcontext(),
            several if chosen in TOGETHER else contextlib.nullcontext(),
        ):
            return arguments.run(arguments)

    return ending("python -m ecood", work)
