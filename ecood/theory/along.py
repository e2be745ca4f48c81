"""A law and a model over lambda: all terms by quadrature, and scores of draws to check them.

The detector's noise scale is lambda (1 - s). In the exact terms 1 - s, in [0, 1), is rounded to
`LEVELS` levels, so that the conditional bound of docs/theory.md, section 4, is a theorem.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ecood.perturb import noise_scale
from ecood.theory import certificate, indexed, mixture, monte_carlo
from ecood.theory.indexed import Terms
from ecood.theory.mixture import Mixture
from ecood.theory.quadrature import Grid

__all__ = ["LEVELS", "Pair", "Seen", "deviation", "drawn_gap", "see"]

LEVELS = 8  # of the noise scale

_log_probs = jax.vmap(mixture.log_prob, in_axes=(None, 0))  # of points [B, D] -> [B]
drawn_gap = jax.vmap(monte_carlo.gap)  # from draws, with its standard error, [L, n] -> [L]


class Seen(NamedTuple):
    """A law over the strengths: terms by quadrature, and scores -log p(x + sigma z) of draws."""

    terms: Terms  # leaves [L]
    levels: jax.Array  # scores [L, n], sigma by levels as in the quadrature
    smooth: jax.Array  # scores [L, n], sigma continuous as in the detector
    dissimilarity: jax.Array  # 1 - s of the points, [n]


class Pair(NamedTuple):
    """P and one Q."""

    name: str
    p: Seen
    q: Seen

    @property
    def gap(self) -> jax.Array:
        """Between P' and Q', by quadrature, [L]."""
        return self.p.terms.log_prob - self.q.terms.log_prob

    def certified(self, bound: str = "indexed") -> jax.Array:
        """The lower bound on the gap from one of the bounds on H(Q'), [L]."""
        return certificate.gap(getattr(self.q.terms, bound), self.p.terms.log_prob)


@functools.partial(jax.jit, static_argnames=("similarity", "largest", "n"))
def see(
    key: jax.Array,
    grid: Grid,
    law: Mixture,
    model: Mixture,
    strengths: jax.Array,
    *,
    similarity: Callable[[jax.Array], jax.Array],
    largest: float,
    n: int,
) -> Seen:
    """All terms of a law, and scores of n draws, at every strength [L].

    `similarity` is s of points [B, D] -> [B]; `largest` is above every 1 - s.
    """
    width = largest / LEVELS

    def level(dissimilarity: jax.Array) -> jax.Array:
        return jnp.clip(jnp.floor(dissimilarity / width), 0, LEVELS - 1).astype(int)

    points, noise = jax.random.split(key)
    density, log_model = jnp.exp(_log_probs(law, grid.points)), _log_probs(model, grid.points)
    index = level(1 - similarity(grid.points))
    scales = (jnp.arange(LEVELS) + 0.5) * width  # a level's middle stands for it
    x, _ = mixture.sample(points, law, n)
    z = jax.random.normal(noise, (len(strengths), *x.shape), x.dtype)
    dissimilarity = 1.0 - similarity(x)

    def scores(sigma: jax.Array) -> jax.Array:
        noisy = x[None] + strengths[:, None, None] * sigma[None, :, None] * z
        return -_log_probs(model, noisy.reshape(-1, x.shape[-1])).reshape(-1, n)

    def terms(strength: jax.Array) -> Terms:
        return indexed.terms(grid, density, index, strength * scales, log_model)

    levels = scores(scales[level(dissimilarity)])
    smooth = scores(noise_scale(1.0 - dissimilarity, 1.0))
    return Seen(jax.lax.map(terms, strengths), levels, smooth, dissimilarity)


def deviation(pair: Pair) -> float:
    """The largest distance between draws and quadrature, in standard errors."""
    value, error = drawn_gap(pair.p.levels, pair.q.levels)
    return float(jnp.max(jnp.abs(value - pair.gap) / error))
