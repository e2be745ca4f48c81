"""Scores on disk, one file per ID set, detector, seed and image set, so that a run resumes."""

import functools
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

import ecood
from ecood import encoders
from ecood.batches import map_images
from ecood.weights import atomic_path
from experiments import report

__all__ = ["Cache", "digest", "remembered", "source_digest"]

SOURCES = (pathlib.Path(ecood.__file__).parent, pathlib.Path(__file__).with_name("roster.py"))


def digest(*parts: object) -> str:
    """SHA-256 over arrays and anything else with a stable `repr`."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.shape} {part.dtype}".encode())
            part = np.ascontiguousarray(part).tobytes()
        sha.update(part if isinstance(part, bytes) else repr(part).encode())
    return sha.hexdigest()


class Cache:
    """Remembers arrays by what they were computed from.

    A file counts only if its key is the one asked for, and if it was written by the same source:
    the version and every Python file of ecood, and the settings of the detectors.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory

    def get(
        self, place: str, key: dict[str, str], compute: Callable[[], np.ndarray]
    ) -> tuple[np.ndarray, bool]:
        """The array at `place`, and whether it was there already."""
        path = self.directory / f"{place}.npz"
        source = {"ecood": ecood.__version__, "source": source_digest(SOURCES)}
        key_text = json.dumps(key | source, sort_keys=True)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                if str(found["key"]) == key_text:
                    return found["scores"], True
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # not there, or cut short: computed anew
        scores = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, scores=scores, key=np.array(key_text))
        return scores, False


@functools.cache
def source_digest(places: tuple[pathlib.Path, ...]) -> str:
    """A hash of Python files and of all of those in folders: edit one, and all is scored anew."""
    files = [sorted(p.rglob("*.py")) if p.is_dir() else [p] for p in places]
    return digest(*(part for file in sum(files, []) for part in (file.name, file.read_bytes())))


def remembered(
    cache: Cache, name: str, encoder: encoders.Encoder, images: np.ndarray
) -> encoders.Encoder:
    """The encoder with the embeddings of an ID set's images, kept on disk."""
    with report.progress_bar(len(images), f"{name}: embeddings, {encoder.name}") as bar:

        def embed() -> np.ndarray:
            return map_images(encoder.embed, encoder.variables, images=images, progress=bar.update)

        identity = encoders.identity(encoder)
        key = {"encoder": identity, "images": digest(images)}
        embeddings, _ = cache.get(f"{name}/embeddings_{identity[:12]}", key, embed)
    return encoders.remembered(encoder, images, embeddings=embeddings)
