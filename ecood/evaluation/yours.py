"""Your detector: the function that MODULE:NAME names, and the source by which a change is told."""

import importlib
import inspect
import pathlib
import sys
import types
from collections.abc import Callable, Collection, Sequence

from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow

__all__ = ["check_new", "yours"]

OURS = ("__main__", "ecood", "experiments")  # packages: `Cache` knows ecood's source


def yours(words: Sequence[str]) -> dict[str, tuple[Callable[[Flow, Encoder], Detector], bytes]]:
    """By the name in each MODULE:NAME, the function of (flow, encoder), and the module's source.

    Raises:
      InputError: if one cannot be imported, or is no such function, or two have one name.
    """
    found = {}
    for name, made in map(_yours, words):
        check_new(name, found)
        found[name] = made
    return found


def _yours(word: str) -> tuple[str, tuple[Callable[[Flow, Encoder], Detector], bytes]]:
    place, _, name = word.partition(":")
    try:
        module = importlib.import_module(place)
        make = getattr(module, name)
        inspect.signature(make).bind("flow", "encoder")
        return name, (make, _source(module))
    except Exception as error:  # whatever your code runs into
        raise InputError(
            f"{word!r} cannot be used ({[*str(error).splitlines(), type(error).__name__][0]}); "
            "expected MODULE:NAME, a function of (flow, encoder)."
        ) from error


def _source(module: types.ModuleType) -> bytes:
    """Of your module, and of what it has imported of its own package or folder."""
    package, folder = module.__name__.partition(".")[0], pathlib.Path(module.__file__).parent
    files = set()
    for name, other in list(sys.modules.items()):
        if isinstance(file := getattr(other, "__file__", None), str):
            path, top = pathlib.Path(file), name.partition(".")[0]
            near = folder in path.parents and "site-packages" not in path.parts
            if top == package or (near and top not in OURS):
                files.add(path)
    return b"".join(path.read_bytes() for path in sorted(files))


def check_new(name: str, known: Collection[str]) -> None:
    """Refuses a detector's name that is taken."""
    if name in known:
        raise InputError(
            f"two detectors are named {name}; give one of them another name, or leave it out."
        )
