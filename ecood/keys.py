"""Random keys whose bits no global setting of JAX changes."""

import contextlib
import operator
from typing import Any

import jax
import jax.numpy as jnp

from ecood.errors import InputError

__all__ = ["IMPLEMENTATION", "check_seed", "make", "same_bits", "signs", "threefry"]

IMPLEMENTATION = "threefry2x32"  # JAX's default; those of "rbg" differ with the batch


def check_seed(seed: int) -> int:
    """The seed; refused where x64 would make another key of it, or where it is no whole number."""
    try:
        fine = not isinstance(seed, bool) and 0 <= operator.index(seed) < 2**32
    except TypeError:
        fine = False
    if not fine:
        raise InputError(f"seed is {seed!r}; expected a whole number from 0 to 2**32 - 1.")
    return int(seed)


def make(seed: int) -> jax.Array:
    """`jax.random.key(seed)`, whatever JAX_DEFAULT_PRNG_IMPL is; see `check_seed`."""
    return jax.random.key(check_seed(seed), impl=IMPLEMENTATION)


def threefry(key: jax.Array) -> jax.Array:
    """The key that `make` makes of the seed that `jax.random.key` made this one of."""
    if str(jax.random.key_impl(key)) == IMPLEMENTATION:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., :2], impl=IMPLEMENTATION)


def signs(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Random signs, those of `jax.random.rademacher` without x64, where they are others."""
    return (2 * jax.random.bernoulli(key, jnp.float32(0.5), shape) - 1).astype(dtype)


def same_bits() -> contextlib.AbstractContextManager:
    """Where random arrays are traced or made: as by JAX_THREEFRY_PARTITIONABLE=1, the default."""
    return jax.threefry_partitionable(True)
