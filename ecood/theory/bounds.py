"""Lower bounds on H(Y + sigma Z), Z ~ N(0, I), for noise scales that may depend on Y.

All rest on the entropy power inequality, H(A + B) >= (D/2) log(e^{2H(A)/D} +
e^{2H(B)/D}) for independent A and B in R^D. Entropies are in nats, `dim` is D, and all
is [] unless said otherwise.
"""

import math

import jax
import jax.numpy as jnp

__all__ = [
    "arbitrary_noise",
    "dequantised_entropy",
    "entropy_power",
    "fixed_noise",
    "independent_sum",
    "indexed_noise",
    "indexed_noise_mean",
    "perturbed_images",
]

TWO_PI_E = 2.0 * math.pi * math.e


def entropy_power(entropy: jax.Array, dim: int) -> jax.Array:
    """N = e^{2H/D} / (2 pi e): the variance of the white Gaussian with entropy H [], units x^2."""
    return jnp.exp(2.0 * entropy / dim) / TWO_PI_E


def independent_sum(entropy_a: jax.Array, entropy_b: jax.Array, dim: int) -> jax.Array:
    """Shannon's lower bound on H(A + B) for independent A and B, [].

    Equality if and only if both are Gaussian with proportional covariances.

    Source: Shannon 1948, theorem 15; Stam 1959.
    """
    return 0.5 * dim * jnp.logaddexp(2.0 * entropy_a / dim, 2.0 * entropy_b / dim)


def fixed_noise(entropy: jax.Array, sigma: jax.Array, dim: int) -> jax.Array:
    """Lower bound on H(Y + sigma Z), sigma independent of Y; for a given H(Y) the best.

    It is (D/2) log(e^{2H(Y)/D} + 2 pi e sigma^2), tight for Gaussian Y with covariance
    c I. For a Y without a density `entropy` is -inf, and sigma > 0.

    Source: Kim & Yoon 2026 (SPEM), the entropy term of theorem 3.1.
    """
    there = sigma != 0
    log_sigma = jnp.where(there, jnp.log(jnp.where(there, jnp.abs(sigma), 1.0)), -jnp.inf)
    return independent_sum(entropy, arbitrary_noise(log_sigma, dim), dim)


def indexed_noise(
    probabilities: jax.Array, entropies: jax.Array, sigmas: jax.Array, dim: int
) -> jax.Array:
    """Lower bound on H(Y + sigma_I Z | I), hence on H(Y + sigma_I Z), I discrete.

    The index may be the noise scale's value, the level of a quantised one, a class:
    anything that tells sigma, and beside which Z is independent of Y. `probabilities`
    are P(I = i), [K], `entropies` H(Y | I = i), [K], and `sigmas` the noise scales,
    [K], >= 0.
    """
    there = probabilities > 0  # a cell without mass counts nothing, whatever its entropy
    of_cells = fixed_noise(entropies, jnp.where(there, sigmas, 1.0), dim)
    return jnp.dot(probabilities, jnp.where(there, of_cells, 0.0))


def indexed_noise_mean(
    entropy: jax.Array, index_entropy: jax.Array, mean_log_sigma: jax.Array, dim: int
) -> jax.Array:
    """`indexed_noise` weakened, by convexity, to what one can know without the cells.

    For I a function of Y: the price of dependence is H(I) <= log K nats over all D
    dimensions, and sigma becomes its geometric mean. The bound is (D/2) log(e^{2(H(Y) -
    H(I))/D} + 2 pi e e^{2 E log sigma_I}), from H(Y), H(I) or log K, and E log sigma_I.
    """
    return independent_sum(entropy - index_entropy, arbitrary_noise(mean_log_sigma, dim), dim)


def arbitrary_noise(mean_log_sigma: jax.Array, dim: int) -> jax.Array:
    """(D/2) log 2 pi e + D E log sigma(Y), the entropy of the noise alone.

    A lower bound on H(Y + sigma(Y) Z) for every function sigma.
    """
    return dim * (0.5 * math.log(TWO_PI_E) + mean_log_sigma)


def dequantised_entropy(discrete_entropy: jax.Array, dim: int, levels: int = 256) -> jax.Array:
    """H of (u + v) / levels, u integer pixels, v ~ U[0, 1)^D: H(u) - D log levels.

    With `discrete_entropy` 0 it is a lower bound for every distribution of images,
    known without estimating anything; with a lossless code's mean length, in nats, an
    upper bound.
    """
    return discrete_entropy - dim * math.log(levels)


def perturbed_images(
    sigmas: jax.Array, entropy: jax.Array, index_entropy: jax.Array, dim: int
) -> tuple[jax.Array, jax.Array]:
    """Lower bounds on H(Y + sigma Z), Y a dequantised 8-bit image, sigma its function.

    The first makes no use of H(Y): `indexed_noise` with the integer image for an index,
    given which Y is uniform on a cube. The second is the better of it and of
    `indexed_noise_mean` with the value of sigma for an index. The nearest bank item
    serves for neither, as sigma is not a function of it. `sigmas` are those of images
    drawn from Q, [n], `index_entropy` is the logarithm of the number of their values.
    """
    cube = dequantised_entropy(0.0, dim)
    known = jnp.mean(fixed_noise(cube, sigmas, dim))
    given = indexed_noise_mean(entropy, index_entropy, jnp.mean(jnp.log(sigmas)), dim)
    return known, jnp.maximum(known, given)
