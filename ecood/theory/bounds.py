"""Lower bounds on H(Y + sigma Z), Z ~ N(0, I), for noise scales that may depend on Y.

All of them rest on the entropy power inequality, H(A + B) >= (D/2) log(e^{2H(A)/D} + e^{2H(B)/D})
for independent A and B in R^D. Entropies are in nats, `dim` is D.
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
    """Lower bound on H(Y + sigma Z), sigma independent of Y.

    Args:
      entropy: H(Y), [], or -inf for a Y without a density, if sigma > 0.
      sigma: the noise scale, [], >= 0.
      dim: D.

    Returns:
      (D/2) log(e^{2H(Y)/D} + 2 pi e sigma^2), []; tight for Gaussian Y with covariance c I.

    Source: Kim & Yoon 2026 (SPEM), the entropy term of theorem 3.1.
    """
    return 0.5 * dim * jnp.log(jnp.exp(2.0 * entropy / dim) + TWO_PI_E * sigma**2)


def indexed_noise(
    probabilities: jax.Array, entropies: jax.Array, sigmas: jax.Array, dim: int
) -> jax.Array:
    """Lower bound on H(Y + sigma_I Z | I), hence on H(Y + sigma_I Z), for a discrete index I.

    The index may be the noise scale's value, the level of a quantised one, a class: anything that
    tells sigma, and beside which Z is independent of Y.

    Args:
      probabilities: P(I = i), [K].
      entropies: H(Y | I = i), [K].
      sigmas: the noise scale of each index, [K], >= 0.
      dim: D.

    Returns:
      sum_i P(I = i) (D/2) log(e^{2H(Y|I=i)/D} + 2 pi e sigma_i^2), [].
    """
    return jnp.dot(probabilities, fixed_noise(entropies, sigmas, dim))


def indexed_noise_mean(
    entropy: jax.Array, index_entropy: jax.Array, mean_log_sigma: jax.Array, dim: int
) -> jax.Array:
    """`indexed_noise` weakened, by convexity, to what one can know of it without the cells.

    For I a function of Y: the price of dependence is H(I) <= log K nats over all D dimensions,
    and sigma becomes its geometric mean.

    Args:
      entropy: H(Y), [].
      index_entropy: H(I) in nats, or log K, [].
      mean_log_sigma: E log sigma_I, [], natural logarithm.
      dim: D.

    Returns:
      (D/2) log(e^{2(H(Y) - H(I))/D} + 2 pi e e^{2 E log sigma_I}), [].
    """
    return fixed_noise(entropy - index_entropy, jnp.exp(mean_log_sigma), dim)


def arbitrary_noise(mean_log_sigma: jax.Array, dim: int) -> jax.Array:
    """Lower bound on H(Y + sigma(Y) Z) for every function sigma: the entropy of the noise alone.

    Args:
      mean_log_sigma: E log sigma(Y), [], natural logarithm.
      dim: D.

    Returns:
      H(Y + sigma(Y) Z | Y) = (D/2) log 2 pi e + D E log sigma(Y), [].
    """
    return dim * (0.5 * math.log(TWO_PI_E) + mean_log_sigma)


def dequantised_entropy(discrete_entropy: jax.Array, dim: int, levels: int = 256) -> jax.Array:
    """H of (u + v) / levels, u integer pixels, v ~ U[0, 1)^D, in nats.

    With `discrete_entropy` 0 it is a lower bound for every distribution of images, known without
    estimating anything; with a lossless code's mean length it is an upper bound.

    Args:
      discrete_entropy: H(u) in nats, [].
      dim: D.
      levels: values a pixel may take.

    Returns:
      H(u) - D log levels, [].
    """
    return discrete_entropy - dim * math.log(levels)


def perturbed_images(
    sigmas: jax.Array, entropy: jax.Array, index_entropy: jax.Array, dim: int
) -> tuple[jax.Array, jax.Array]:
    """Lower bounds on H(Y + sigma Z), Y a dequantised 8-bit image and sigma a function of it.

    The first is `indexed_noise` with the integer image for an index, given which Y is uniform on a
    cube. The second is `indexed_noise_mean` with the value of sigma for an index. The nearest bank
    item serves for neither, as sigma is not a function of it.

    Args:
      sigmas: the noise scales of images drawn from Q, [n].
      entropy: H(Y), or an estimate, [].
      index_entropy: of sigma's values: the logarithm of their number, [].
      dim: D.

    Returns:
      A bound that makes no use of H(Y), and the better of it and the one that does; [] each.
    """
    cube = dequantised_entropy(0.0, dim)
    known = jnp.mean(fixed_noise(cube, sigmas, dim))
    given = indexed_noise_mean(entropy, index_entropy, jnp.mean(jnp.log(sigmas)), dim)
    return known, jnp.maximum(known, given)
