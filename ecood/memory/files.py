"""Banks on disk: safetensors, with the identity of the encoder inside."""

import os

import jax
import jax.numpy as jnp

from ecood import weights
from ecood.encoders import Encoder, identity
from ecood.errors import InputError
from ecood.memory.build import STORAGE
from ecood.memory.compress import Compressed

__all__ = ["load", "save"]


def save(path: str | os.PathLike, bank: jax.Array | Compressed, encoder: Encoder) -> None:
    """Writes the bank in its dtype, with the encoder's name and identity."""
    metadata = {"encoder": encoder.name, "encoder_identity": identity(encoder)}
    if isinstance(bank, Compressed):
        metadata["radius"] = repr(float(bank.radius))
        bank = bank.bank
    weights.save(path, {"embeddings": bank}, metadata)


def load(path: str | os.PathLike, encoder: Encoder) -> jax.Array | Compressed:
    """Reads a bank.

    Raises `InputError` if it is missing or damaged, or was built by another encoder.
    """
    tree, metadata = weights.load(path)
    if metadata.get("encoder_identity") != identity(encoder):
        raise InputError(
            f"the bank {path} was built by the encoder {metadata.get('encoder', 'unknown')} with "
            f"other weights than the given {encoder.name}; build it again with this encoder."
        )
    if set(tree) != {"embeddings"} or tree["embeddings"].ndim != 2 or not tree["embeddings"].size:
        raise InputError(f"{path} is not a memory bank; expected one array [N, d] in it.")
    bank = jnp.asarray(tree["embeddings"])
    if bank.dtype.name not in STORAGE:
        raise InputError(
            f"{path} is not a memory bank: it holds {bank.dtype}, expected {', '.join(STORAGE)}."
        )
    if "radius" not in metadata:
        return bank
    try:
        return Compressed(bank, jnp.float32(float(metadata["radius"])))
    except ValueError:
        raise InputError(
            f"{path} has the covering radius {metadata['radius']!r}, which is no number; it is "
            "damaged: build the bank again."
        ) from None
