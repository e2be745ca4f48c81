"""What every experiment shares: how a run is identified, how errors end, where reports go."""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax

from ecood.errors import InputError
from ecood.progress import progress_bar
from ecood.weights import atomic_path

__all__ = ["identify", "main", "minutes", "progress_bar", "write_json", "write_text"]

PACKAGES = ("ecood", "jax", "jaxlib", "flax", "optax", "distrax", "numpy")


def identify(arguments: argparse.Namespace) -> dict[str, Any]:
    """What identifies a run: command, settings, versions, machine, git revision, date."""
    return {
        "command": " ".join(["python -m", _module_name(), *sys.argv[1:]]),
        "settings": {name: _plain(value) for name, value in vars(arguments).items()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": {name: _version(name) for name in PACKAGES},
    }


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """The command line of `python -m MODULE`, whose help begins with the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(run: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parses and runs; a refused input ends with its one sentence and exit code 2."""
    arguments = parser.parse_args()
    try:
        run(arguments)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        sys.exit(130)


def minutes(arguments: argparse.Namespace, usual: float) -> float | None:
    """How long to train: `--minutes`, None where there are `--steps`, else the usual time."""
    if arguments.steps is None and arguments.minutes is None:
        return usual
    return arguments.minutes


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, pathlib.Path) else value


def _module_name() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else "experiments"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_revision() -> str | None:
    folder = pathlib.Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
