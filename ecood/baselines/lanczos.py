"""Traces of functions of a matrix that is known by its products only."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["Spectrum", "spectrum"]

Spectrum = tuple[jax.Array, jax.Array]  # nodes and weights, [B, steps] each


def spectrum(product: Callable[[jax.Array], jax.Array], probe: jax.Array, steps: int) -> Spectrum:
    """Gauss quadrature of a symmetric matrix's spectrum, as one vector sees it.

    Lanczos' recursion, with all vectors kept orthogonal. For a probe of random signs,
    sum_k weight_k f(node_k) is an unbiased estimate of the trace of f(A), but for the error of
    the quadrature, which is exact for polynomials of degree 2 steps - 1.

    Args:
      product: `[B, D] -> [B, D]`, the product of each row with a symmetric matrix of its own.
      probe: [B, D], not zero.
      steps: products taken.

    Returns:
      Nodes and weights; the weights of a row sum to the squared norm of its probe.

    Source: Golub & Meurant 2010, "Matrices, Moments and Quadrature with Applications", chapter 6;
    Ubaru et al. 2017, "Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature".
    """
    square = jnp.sum(probe**2, axis=1)
    tiny = jnp.finfo(probe.dtype).tiny

    def step(carry: tuple[jax.Array, jax.Array], index: jax.Array):
        basis, vector = carry
        basis = basis.at[index].set(vector)  # [steps, B, D], zero where nothing is yet
        image = product(vector)
        diagonal = jnp.sum(image * vector, axis=1)
        for _ in range(2):  # twice is enough in float32
            parts = jnp.einsum("sbd,bd->sb", basis, image)
            image -= jnp.einsum("sbd,sb->bd", basis, parts)
        norm = jnp.linalg.norm(image, axis=1)
        return (basis, image / jnp.maximum(norm, tiny)[:, None]), (diagonal, norm)

    start = jnp.zeros((steps, *probe.shape), probe.dtype), probe / jnp.sqrt(square)[:, None]
    _, (diagonal, beside) = jax.lax.scan(step, start, jnp.arange(steps))

    def tridiagonal(diagonal: jax.Array, beside: jax.Array) -> jax.Array:
        return jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)

    nodes, vectors = jnp.linalg.eigh(jax.vmap(tridiagonal, 1)(diagonal, beside[:-1]))
    return nodes, square[:, None] * vectors[:, 0] ** 2
