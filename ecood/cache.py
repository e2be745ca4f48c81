"""What was computed, kept on disk: an .npz file a place, computed anew where its makers changed."""

import functools
import importlib.util
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from importlib import metadata

import numpy as np

from ecood.digests import digest
from ecood.weights import atomic_path

__all__ = ["Cache", "versions"]

KEY = "made of"  # no name that a detector may give to what it tells
PACKAGE = pathlib.Path(__file__).parent
COMPUTE = "jax", "jaxlib", "flax", "optax", "distrax", "numpy", "scipy", "imagecodecs"
COMPUTE = {name: name for name in COMPUTE} | {"sklearn": "scikit-learn", "PIL": "pillow"}


class Cache:
    """Remembers named arrays by a key, by ecood's source and by the packages that compute."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.source = digest(_source(PACKAGE), versions())

    def get(
        self, place: str, key: Mapping[str, str], compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays at `place`, computed if they are not there, or not with this key."""
        path = self.directory / f"{place}.npz"
        key_text = json.dumps({**key, "source": self.source}, sort_keys=True)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                if str(found[KEY]) == key_text:
                    return {name: found[name] for name in found.files if name != KEY}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # not there, or cut short: computed anew
        arrays = dict(compute())
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, array in {KEY: np.array(key_text), **arrays}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        return arrays


def versions() -> list[str]:
    """Of the packages that compute scores; an upgrade may change them."""
    installed = filter(importlib.util.find_spec, COMPUTE)
    return [f"{name} {metadata.version(COMPUTE[name])}" for name in installed]


@functools.cache
def _source(package: pathlib.Path) -> str:
    """A digest of all Python files there, as this process runs them."""
    return digest([(file.name, file.read_bytes()) for file in sorted(package.rglob("*.py"))])


_source(PACKAGE)  # now, before somebody edits what this process has imported
