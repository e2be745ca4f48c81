"""The scorer that a command line names: shipped, a directory, an exported file, or on the hub."""

import argparse
import os
import pathlib
from typing import Any

import ecood.score
from ecood import hub
from ecood.errors import InputError
from ecood.score import Program, Scorer, files

__all__ = ["DIRECTORY_HELP", "SCORER_HELP", "add_trust", "find", "parts"]

DIRECTORY_HELP = """a directory that `fit` wrote, hf:OWNER/NAME on the Hugging Face hub, or a
shipped scorer"""
SCORER_HELP = f"an .npz file of `export`, {DIRECTORY_HELP}"
TRUST_HELP = """the import path of the code that made the scorer's own flow or encoder: import and
call it (default: no code of a scorer is run)"""


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The argument that says whose code may run."""
    parser.add_argument("--trust", metavar="MODULE:NAME", help=TRUST_HELP)


def find(name: str, arguments: argparse.Namespace) -> Scorer | Program:
    """Reads it; an `InputError` if it cannot be had."""
    if name.lower().endswith(".npz") and not os.path.isdir(name):
        if arguments.trust is not None:
            raise InputError(
                f"{name} is an exported scorer, which holds no code; leave --trust out."
            )
        if getattr(arguments, "embeddings", None) is not None:
            raise InputError("an exported scorer takes images alone; leave --embeddings out.")
        return ecood.score.load_export(name)
    options: dict[str, Any] = {} if arguments.trust is None else {"trust": arguments.trust}
    scorer = ecood.score.load(name, **options)
    if options and scorer.made_by is None:
        raise InputError(f"{name} is a scorer that needs no code of others; leave --trust out.")
    return scorer


def parts(name: str) -> list[pathlib.Path]:
    """The files of a scorer that is on this machine, which nothing may overwrite."""
    if os.path.isfile(name):
        return [pathlib.Path(name)]
    if name.startswith(hub.PREFIX):
        return []
    try:
        directory = files.locate(name)
    except InputError:  # `find` tells
        return []
    return [*directory.glob("*.safetensors"), directory / files.SCORER, directory / files.CARD]
