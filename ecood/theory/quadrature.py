"""Entropies, divergences and noise for densities in one or two dimensions, by quadrature.

The trapezoidal rule on a uniform grid: for smooth densities that have died out at the grid's edge
its error falls faster than any power of the spacing. A density is given by its logarithm at the
grid's points.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "Grid",
    "cross_entropy",
    "entropy",
    "expectation",
    "fisher_information",
    "grid",
    "kl",
    "log",
    "perturb",
    "smooth",
]


class Grid(NamedTuple):
    """A uniform grid over a cube: n coordinates on every axis, and the M = n**D points.

    Points are [M, D], the last axis fastest; `cell` [] is the volume that one stands
    for.
    """

    axis: jax.Array
    points: jax.Array
    cell: jax.Array


def grid(low: float, high: float, n: int, dim: int) -> Grid:
    """A grid of n points an axis, from `low` to `high` on each of `dim` axes."""
    axis = jnp.linspace(low, high, n)
    points = jnp.stack(jnp.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    return Grid(axis, points, (axis[1] - axis[0]) ** dim)


def expectation(grid: Grid, log_p: jax.Array, values: jax.Array) -> jax.Array:
    """E_p of a function given by its values at the points; log_p [M], values [M] -> []."""
    mass = jnp.exp(log_p) * grid.cell
    # Where p has underflowed, `values` may be infinite and counts for nothing.
    return jnp.sum(jnp.where(mass > 0, mass * jnp.where(mass > 0, values, 0.0), 0.0))


def entropy(grid: Grid, log_p: jax.Array) -> jax.Array:
    """H = -E_p log p in nats; log_p [M] -> []."""
    return -expectation(grid, log_p, log_p)


def cross_entropy(grid: Grid, log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """-E_p log q in nats; log_p [M], log_q [M] -> []."""
    return -expectation(grid, log_p, log_q)


def kl(grid: Grid, log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """KL(p || q) in nats; log_p [M], log_q [M] -> []."""
    return expectation(grid, log_p, log_p - log_q)


def fisher_information(grid: Grid, log_prob: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """J = E_p |grad log p|^2, [], per unit of x squared; log_prob: x [D] -> []."""
    value, score = jax.vmap(jax.value_and_grad(log_prob))(grid.points)
    return expectation(grid, value, jnp.sum(score**2, axis=1))


def smooth(grid: Grid, density: jax.Array, sigma: jax.Array) -> jax.Array:
    """The density of Y + sigma Z on the grid, [M], by the Fourier transform; sigma [].

    The transform takes `density` [M], that of Y (or any integrable function: a part of
    a density, say), as periodic, so the noise must die out before the grid's edge.
    """
    n, dim = grid.axis.shape[0], grid.points.shape[1]
    frequency = 2.0 * math.pi * jnp.fft.fftfreq(n, grid.axis[1] - grid.axis[0])
    damping = jnp.exp(-0.5 * (sigma * frequency) ** 2)
    spectrum = jnp.fft.fftn(density.reshape((n,) * dim))
    for axis in range(dim):
        spectrum *= jnp.expand_dims(damping, [other for other in range(dim) if other != axis])
    return jnp.fft.ifftn(spectrum).real.reshape(-1)


def perturb(grid: Grid, density: jax.Array, sigma: jax.Array) -> jax.Array:
    """The density of Y + sigma(Y) Z, [n], for a noise scale of the point, D = 1.

    `density` [n] is that of Y, and `sigma` [n] at least the grid's spacing where there
    is mass.
    """
    distance = (grid.axis[:, None] - grid.axis[None, :]) / sigma[None, :]
    mass = density * grid.cell / (sigma * math.sqrt(2.0 * math.pi))
    return jnp.exp(-0.5 * distance**2) @ mass


def log(density: jax.Array) -> jax.Array:
    """The log of a density [M], -inf where it is zero (rounding may leave it a hair below)."""
    positive = density > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, density, 1.0)), -jnp.inf)
