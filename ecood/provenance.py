"""What identifies a run: its command, settings, versions, machine and date."""

import contextlib
import datetime
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax

import ecood

__all__ = ["command", "identify"]

PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "numpy")


def command() -> str:
    """The command line of this process."""
    module = sys.modules["__main__"].__spec__
    name = module.name.removesuffix(".__main__") if module else "ecood"
    return shlex.join(["python", "-m", name, *sys.argv[1:]])


def identify(settings: Mapping[str, Any], source: pathlib.Path) -> dict[str, Any]:
    """In JSON values; `source` is a folder of the code that runs, whose git revision is told."""
    return {
        "command": command(),
        "settings": {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in settings.items()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_revision": _git_revision(source),
        "python": platform.python_version(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": {"ecood": ecood.__version__, **_versions()},
    }


def _versions() -> dict[str, str]:
    """Of those that are installed; ecood does without distrax, for one."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _git_revision(folder: pathlib.Path) -> str | None:
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
