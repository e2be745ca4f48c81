"""Build a bank once: banks kept in a folder by the content of what they were built from."""

import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ecood.encoders import Encoder, identity
from ecood.errors import InputError
from ecood.memory.build import build, check_storage
from ecood.memory.files import load, save

__all__ = ["cached"]

FORMAT = b"ecood memory bank 1"
PROBES = 16  # images that are embedded again to see whether the encoder is still the same


def cached(
    encoder: Encoder,
    images: np.ndarray,
    *,
    directory: str | os.PathLike | None = None,
    dtype: DTypeLike = jnp.float32,
    progress: Callable[[int], None] | None = None,
) -> jax.Array:
    """As `build`, but a bank that was built before is read from a file.

    The file's name is the SHA-256 of the images, the encoder's identity and the dtype. A function
    can change without changing its identity, so sixteen of the images are embedded again and
    compared. A file that is damaged, or fails that comparison, is built again, with a warning.
    Any number of processes may do this at once: a file appears whole or not at all.

    Args:
      encoder: the semantic encoder.
      images: uint8 [N, H, W, C].
      directory: where banks are kept; the user's cache folder, `~/.cache/ecood`, if None.
      dtype: what the bank is stored in (see `build`).
      progress: called with the number of images embedded since its last call.

    Raises:
      InputError: as `build`, or if the folder cannot be written.
    """
    dtype = check_storage(dtype)
    folder = _user_cache() if directory is None else pathlib.Path(directory)
    path = folder / f"{_key(encoder, images, dtype)}.safetensors"
    if path.is_file():
        try:
            return _checked(load(path, encoder), encoder, images)
        except InputError as error:
            warnings.warn(f"building the memory bank again: {error}", stacklevel=2)
    bank = build(encoder, images, dtype=dtype, progress=progress)
    save(path, bank, encoder)
    return bank


def _user_cache() -> pathlib.Path:
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ecood"


def _key(encoder: Encoder, images: np.ndarray, dtype: np.dtype) -> str:
    digest = hashlib.sha256(FORMAT)
    digest.update(f"{identity(encoder)} {dtype.name} {images.shape} {images.dtype}".encode())
    digest.update(np.ascontiguousarray(images))
    return digest.hexdigest()


def _checked(bank: jax.Array, encoder: Encoder, images: np.ndarray) -> jax.Array:
    """The bank, if it has the rows that the encoder gives for some of the images."""
    if len(bank) == len(images):
        probes = np.unique(np.linspace(0, len(images) - 1, PROBES).astype(int))
        expected = build(encoder, images[probes], dtype=bank.dtype).astype(jnp.float32)
        found = bank[probes].astype(jnp.float32)
        # Two units in the last place of a number near 1: rounding may fall either way.
        tolerance = max(2 * float(jnp.finfo(bank.dtype).eps), 1e-4)
        if expected.shape == found.shape and jnp.max(jnp.abs(expected - found)) <= tolerance:
            return bank
    raise InputError(
        f"the encoder {encoder.name} no longer gives the embeddings that are kept for these "
        "images in the cache."
    )
