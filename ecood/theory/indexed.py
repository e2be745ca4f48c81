"""Noise whose scale is a function of a discrete index of the point: all terms, by quadrature."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import entr, xlogy

from ecood.theory import bounds, quadrature
from ecood.theory.quadrature import Grid

__all__ = ["Terms", "terms"]


class Terms(NamedTuple):
    """A law R after noise, R' that of Y + sigma_I Z; nats, [] each.

    Attributes:
      entropy: H(R').
      log_prob: E_{R'} log p.
      indexed: lower bound on H(R') from the entropies H(Y | I).
      mean: the same weakened to H(Y), H(I) and the geometric mean of the noise scale.
      floor: the entropy of the noise alone.
    """

    entropy: jax.Array
    log_prob: jax.Array
    indexed: jax.Array
    mean: jax.Array
    floor: jax.Array


def terms(
    grid: Grid, density: jax.Array, index: jax.Array, sigmas: jax.Array, log_model: jax.Array
) -> Terms:
    """The terms of a law on a grid.

    `density` is that of Y, [M], `index` I of each point, int [M] in [0, K), `sigmas`
    the noise scale of each index, [K], >= 0, and `log_model` log p, [M], in nats.
    """
    dim, own = grid.points.shape[1], jnp.arange(sigmas.shape[0])[:, None] == index[None, :]
    pieces = jnp.where(own, density[None, :], 0.0)
    shares = jnp.sum(pieces, axis=1) * grid.cell
    inside = pieces / jnp.where(shares > 0, shares, 1.0)[:, None]
    entropies = jax.vmap(lambda piece: quadrature.entropy(grid, quadrature.log(piece)))(inside)
    smooth = jax.vmap(quadrature.smooth, in_axes=(None, 0, 0))
    log_noisy = quadrature.log(jnp.sum(smooth(grid, pieces, sigmas), axis=0))
    clean = quadrature.entropy(grid, quadrature.log(density))
    mean_log_sigma = jnp.sum(xlogy(shares, sigmas))
    return Terms(
        entropy=quadrature.entropy(grid, log_noisy),
        log_prob=quadrature.expectation(grid, log_noisy, log_model),
        indexed=bounds.indexed_noise(shares, entropies, sigmas, dim),
        mean=bounds.indexed_noise_mean(clean, jnp.sum(entr(shares)), mean_log_sigma, dim),
        floor=bounds.arbitrary_noise(mean_log_sigma, dim),
    )
