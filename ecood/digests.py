"""By what one thing is known from another, whichever process asks."""

import hashlib
import re
from typing import Any

import jax
import numpy as np

__all__ = ["digest", "named"]


def digest(*parts: Any) -> str:
    """SHA-256 over pytrees of arrays, and over anything else with a stable `repr`.

    Keys of dicts and None count; what is static in a pytree does not.
    """
    sha = hashlib.sha256()
    tree = parts if len(parts) != 1 else parts[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None):
        sha.update(jax.tree_util.keystr(path).encode())
        if isinstance(leaf, np.ndarray | jax.Array):
            sha.update(f"{leaf.shape} {leaf.dtype}".encode() + np.asarray(leaf).tobytes())
        else:
            sha.update(repr(leaf).encode())
    return sha.hexdigest()


def named(code: Any) -> str:
    """A module's or function's `repr` without addresses, which differ between processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(code))
