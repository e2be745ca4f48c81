"""Random keys whose bits no global setting of JAX changes."""

import contextlib

import jax

__all__ = ["make", "same_bits", "threefry"]

IMPLEMENTATION = "threefry2x32"  # JAX's default; those of "rbg" differ with the batch


def make(seed: int) -> jax.Array:
    """`jax.random.key(seed)`, whatever JAX_DEFAULT_PRNG_IMPL is."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


def threefry(key: jax.Array) -> jax.Array:
    """The key that `make` makes of the seed that `jax.random.key` made this one of."""
    if str(jax.random.key_impl(key)) == IMPLEMENTATION:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., :2], impl=IMPLEMENTATION)


def same_bits() -> contextlib.AbstractContextManager:
    """Where random arrays are traced or made: as by JAX_THREEFRY_PARTITIONABLE=1, the default."""
    return jax.threefry_partitionable(True)
