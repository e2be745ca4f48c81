"""The theory of entropy control, made executable; statements and proofs in `docs/theory.md`.

  gaussian     entropy, divergences, Fisher information and noise for Gaussians, in closed form
  mixture      Gaussian mixtures: densities, draws, noise
  quadrature   the same integrals for any density in one or two dimensions
  monte_carlo  the same integrals from draws, with standard errors
  gap          the likelihood gap and its four terms; the exact gap under a Gaussian model
  bounds       lower bounds on the entropy after noise: fixed, indexed and arbitrary noise scales
  indexed      exact entropy and bounds where the noise scale is a function of an index
  certificate  lower bounds on the gap after noise, and the noise that makes it positive
  expansion    small noise: de Bruijn's identity, second-order expansion, Hessian traces
  auroc        AUROC from the first two moments of the scores
  crossing     where a curve over the noise is positive

All but the last are pure functions of arrays, in nats and in the dtype of their inputs, made to be
jitted, mapped and differentiated. P is in-distribution ("id"), Q out-of-distribution ("ood"), p the
model's density, and a prime marks what noise x + sigma z has been added to.
"""

from ecood.theory import (
    auroc,
    bounds,
    certificate,
    crossing,
    expansion,
    gap,
    gaussian,
    indexed,
    mixture,
    monte_carlo,
    quadrature,
)

__all__ = [
    "auroc",
    "bounds",
    "certificate",
    "crossing",
    "expansion",
    "gap",
    "gaussian",
    "indexed",
    "mixture",
    "monte_carlo",
    "quadrature",
]
