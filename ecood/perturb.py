"""The perturbation: noise whose scale falls with similarity, x + sigma z. Per example, pure."""

from typing import Any

import jax
import jax.numpy as jnp

from ecood import keys

__all__ = ["noise_of", "noise_scale", "perturb"]


def noise_scale(similarity: jax.Array, strength: jax.Array | float) -> jax.Array:
    """The scale sigma = strength * (1 - similarity): the less like ID data, the more noise.

    Similarity is in [-1, 1], any shape; `strength` is lambda >= 0, the noise scale of
    an image orthogonal to the bank, in units of the pixel range (1 = black to white).

    Source: Kim & Yoon 2026 (SPEM), with g(s) = 1 - s.
    """
    return strength * jnp.maximum(1.0 - similarity, 0.0)  # rounding can lift s just above 1


def perturb(key: jax.Array, x: jax.Array, noise_scale: jax.Array | float) -> jax.Array:
    """x + noise_scale * z with z ~ N(0, I) from this image's key; x is float, of any shape.

    Not clipped, so that the theory's entropies hold.
    """
    with keys.same_bits():  # flat: the same numbers, in a third of the time where channels are 3
        z = jax.random.normal(key, (x.size,), x.dtype)
    return x + noise_scale * z.reshape(x.shape)


def noise_of(index: jax.Array | int, antithetic: bool = False) -> tuple[jax.Array | int, Any]:
    """(number, sign) of the noise in the index-th perturbation, from 0; the index may be traced.

    Antithetic perturbations 2i and 2i + 1 are x + sigma z and x - sigma z with the same z, so that
    terms odd in sigma cancel in their mean.
    """
    if not antithetic:
        return index, 1.0
    return index // 2, 1.0 - 2.0 * (index % 2)
