"""What a little noise does: to an entropy (de Bruijn) and to a log-density (second order)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ecood.theory import monte_carlo, quadrature
from ecood.theory.monte_carlo import Estimate
from ecood.theory.quadrature import Grid

__all__ = ["de_bruijn", "entropy_rate", "expand", "hessian_trace", "hutchinson"]


def de_bruijn(fisher_information: jax.Array) -> jax.Array:
    """dH(Y + sigma Z) / d(sigma^2) = J(Y + sigma Z) / 2, [], nats per unit of variance.

    Source: Stam 1959, equation 2.12 (de Bruijn's identity).
    """
    return 0.5 * fisher_information


def entropy_rate(
    grid: Grid, log_prob: Callable[[jax.Array], jax.Array], noise_variance: jax.Array
) -> jax.Array:
    """dH(Y + sqrt(t v(Y)) Z) / dt at t = 0: de Bruijn's identity for pointwise noise.

    It is -E[v(Y) tr(Hessian of log p)(Y)] / 2, in nats; J / 2 for v = 1. It may be
    negative: noise where log p is convex, such as the valley between two modes, moves
    mass towards the modes. `log_prob` is x [D] -> [], and v is given at the grid's
    points, [M].
    """
    traces = jax.vmap(lambda x: hessian_trace(log_prob, x))(grid.points)
    log_p = jax.vmap(log_prob)(grid.points)
    return -0.5 * quadrature.expectation(grid, log_p, noise_variance * traces)


def _product(f: Callable, x: jax.Array, vector: jax.Array) -> jax.Array:
    """The Hessian of f at x times a vector, forward over reverse; x [D], vector [D] -> [D]."""
    return jax.jvp(jax.grad(f), (x,), (vector,))[1]


def hessian_trace(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The exact trace of the Hessian, by D Hessian-vector products; f: [D] -> [], x [D] -> []."""
    basis = jnp.eye(x.shape[0], dtype=x.dtype)
    return jnp.sum(jax.vmap(lambda v: jnp.dot(v, _product(f, x, v)))(basis))


def hutchinson(
    key: jax.Array, f: Callable[[jax.Array], jax.Array], x: jax.Array, probes: int
) -> Estimate:
    """The trace of f's Hessian at x [D] from random signs v: E v'Av = tr A.

    Exact if A is diagonal. `probes`, at least 2, is the number of sign vectors; the
    variance of one is twice the sum of A's squared off-diagonal entries. f is [D] ->
    [].

    Source: Hutchinson 1990.
    """
    signs = jax.random.rademacher(key, (probes, x.shape[0]), x.dtype)
    return monte_carlo.mean(jax.vmap(lambda v: jnp.dot(v, _product(f, x, v)))(signs))


def expand(log_prob: jax.Array, hessian_trace: jax.Array, sigma: jax.Array) -> jax.Array:
    """E_z log p(x + sigma z) to second order: log p(x) + sigma^2 tr(Hessian) / 2.

    `log_prob` and `hessian_trace` are those at x, of one shape; sigma []. Exact for
    every sigma if p is Gaussian, else up to O(sigma^4).
    """
    return log_prob + 0.5 * sigma**2 * hessian_trace
