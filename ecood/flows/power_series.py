"""The log-determinant of x + g(x), where g has a Lipschitz constant L < 1, from products with J.

    log det(I + J) = tr log(I + J) = sum_{k >= 1} (-1)^(k+1) / k  tr(J^k),

and tr(J^k) = E[vᵀ J^k v] for a random v with independent entries of mean zero and variance one
(Hutchinson). Three ways to end the series: `log_det` after a fixed number of terms,
`roulette_log_det` after a random number of terms, reweighted so that there is no bias, and
`exact_log_det` not at all: the determinant of the whole matrix, for few dimensions.

A Jacobian is given here as a linear function on batches, `vjp(c) = Jᵀ c` of c [B, ...], each row
with a J of its own; a probe is one v a row, float [B, ...].
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ecood import keys

__all__ = [
    "EXACT_TERMS",
    "draw_probe",
    "draw_terms",
    "exact_log_det",
    "inner",
    "log_det",
    "roulette_log_det",
    "truncation_bound",
]

EXACT_TERMS = 2  # of the roulette in training: with weight one; one more is always computed
CONTINUE = 0.5  # the probability of each further term, given the one before


def draw_probe(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Random signs: of all Hutchinson probes the ones of least variance.

    Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix".
    """
    return keys.signs(key, shape, dtype)


def draw_terms(key: jax.Array, exact: int = EXACT_TERMS) -> jax.Array:
    """A number of terms for `roulette_log_det`, int32 []: `exact` + Geometric(1/2)."""
    return exact + jax.random.geometric(key, jnp.float32(1.0 - CONTINUE), dtype=jnp.int32)


def log_det(vjp: Callable[[jax.Array], jax.Array], probe: jax.Array, terms: int) -> jax.Array:
    """The first n terms of the series, sum_{k=1}^{n} (-1)^(k+1) / k vᵀ J^k v, float [B].

    Deterministic given the probe. The error in expectation is at most `truncation_bound`.
    """

    def add_term(carry, k):
        power, total = carry
        power = vjp(power)
        return (power, total + _sign(k) / k * inner(power, probe)), None

    start = (probe, jnp.zeros(probe.shape[0], probe.dtype))
    ks = jnp.arange(1, terms + 1, dtype=probe.dtype)
    return jax.lax.scan(add_term, start, ks)[0][1]


def roulette_log_det(
    vjp: Callable[[jax.Array], jax.Array],
    probe: jax.Array,
    terms: jax.Array,
    exact: int = EXACT_TERMS,
) -> tuple[jax.Array, jax.Array]:
    """Unbiased estimates of the log-determinant [B] and of the vector w that its gradient needs.

    Term k has the weight 1 / P(N >= k), N the random number of terms, so that the expectation
    over N is the whole series; the first `exact` terms are always there, with weight one. The
    gradient has a series of its own,

        d log det(I + J) = tr((I + J)^{-1} dJ) = E[wᵀ dJ v],  w = sum_{k >= 0} (-1)^k (Jᵀ)^k v,

    which only needs dJ once, however many terms w has: the memory of a backward pass does not
    grow with N, as it would through the terms above. N, from `draw_terms` of the same `exact`, may
    be traced: one compiled program serves all N.

    Source: Chen et al. 2019, "Residual Flows for Invertible Generative Modeling", theorems 1, 2.
    """

    def add_term(i, carry):
        power, total, neumann = carry
        power = vjp(power)
        k = i.astype(probe.dtype)
        weight = _sign(k) * CONTINUE ** -jnp.maximum(k - exact - 1, 0)
        return power, total + weight / k * inner(power, probe), neumann - weight * power

    start = (probe, jnp.zeros(probe.shape[0], probe.dtype), probe)
    _, total, neumann = jax.lax.fori_loop(1, terms + 1, add_term, start)
    return total, neumann


def exact_log_det(jvp: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Log det(I + J), float [B], through the whole matrix: D products `jvp(t) = J t`, O(D^3) work.

    For few dimensions; x, float [B, ...], gives the shape and dtype.
    """
    d = math.prod(x.shape[1:])
    basis = jnp.eye(d, dtype=x.dtype).reshape(d, 1, *x.shape[1:])
    columns = jax.vmap(jvp)(jnp.broadcast_to(basis, (d, *x.shape)))
    jacobian = jnp.moveaxis(columns.reshape(d, x.shape[0], d), 0, 2)
    return jnp.linalg.slogdet(jnp.eye(d, dtype=x.dtype)[None] + jacobian)[1]


def truncation_bound(lipschitz: float, dimensions: int, terms: int) -> float:
    """What the terms beyond the first n can add to the log-determinant, at most, in nats.

    |tr(J^k)| <= D L^k, so the tail is at most D L^(n+1) / ((n + 1) (1 - L)), where L < 1 bounds the
    Lipschitz constant of g. A worst case, that of J near -L I; trained blocks are far from it.

    Source: Behrmann et al. 2019, "Invertible Residual Networks", theorem 4.
    """
    return dimensions * lipschitz ** (terms + 1) / ((terms + 1) * (1.0 - lipschitz))


def _sign(k: jax.Array) -> jax.Array:
    """(-1)^(k+1)."""
    return 2 * (k % 2) - 1


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """The inner product of each row of a with that of b: [B, ...] twice -> [B]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))
