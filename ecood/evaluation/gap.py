"""The likelihood gap of real images over lambda, and what is certified of it.

Source: docs/theory.md, sections 6 to 8.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from ecood import metrics, statistics
from ecood.baselines.codecs import complexity
from ecood.batches import map_images
from ecood.code_length import code_length
from ecood.flows import Flow
from ecood.perturb import noise_scale
from ecood.score.spem import SPEMState, similarities
from ecood.theory import bounds, certificate, expansion, monte_carlo

__all__ = ["Curve", "Seen", "over_lambda", "see"]

GREY_LEVEL = 1 / 256  # noise small enough to measure a curvature with
# In float32, 1 - s is a multiple of 2^-24 up to 1 and of 2^-23 up to 2: fewer than 2^25 values.
SCALE_ENTROPY = 25 * math.log(2)  # of the noise scale at one lambda, nats, at most


def _log_density(flow: Flow, key: jax.Array, at: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Log p of images uint8 [B, H, W, C] perturbed at their noise scales [B]: nats [B]."""
    return flow.log_prob(key, statistics.perturbed(key, *at))


class Seen(NamedTuple):
    """A set of images over lambda, nats a dimension.

    Attributes:
      similarity: to the memory bank, [n].
      scales: of the noise, [L, n].
      log_prob: of the perturbed images, [L, n].
      expansion: its second-order prediction, [L, n].
      entropy: of the dequantised images, nats in all: an estimate from above, by a lossless code.
      code_length: L, of each image in the universal code, bits/dim, [n].
    """

    similarity: np.ndarray
    scales: np.ndarray
    log_prob: np.ndarray
    expansion: np.ndarray
    entropy: float
    code_length: np.ndarray

    @property
    def bits(self) -> np.ndarray:
        """-log p in bits/dim, guarded as the detectors do, [L, n]."""
        return np.asarray(statistics.guard(8 - self.log_prob / math.log(2)))

    @property
    def surprise(self) -> np.ndarray:
        """The same in nats a dimension of x in [0, 1), [L, n]."""
        return math.log(2) * (self.bits - 8)


def see(key: jax.Array, state: SPEMState, images: np.ndarray, strengths: np.ndarray) -> Seen:
    """Images uint8 [n, H, W, C] at every lambda of `strengths` [L], in units of the pixel range.

    The first of them is 0: from it follows what the expansion predicts for the others.
    """
    dim = math.prod(images.shape[1:])
    similarity = similarities(state, images)
    scales = np.asarray(noise_scale(similarity[None], strengths[:, None]), np.float32)

    def at(scales: np.ndarray) -> np.ndarray:
        log_prob = map_images(_log_density, state.flow, key, images=(images, scales))
        return log_prob.astype(np.float64) / dim

    log_prob = np.stack([at(row) for row in scales])
    # A little noise has the curvature: E_z log p(x + sigma z) = log p(x) + sigma^2 trace / 2 + ...
    trace = 2 * (at(np.full_like(similarity, GREY_LEVEL)) - log_prob[0]) / GREY_LEVEL**2
    expanded = expansion.expand(log_prob[0], trace, scales.astype(np.float64))
    nats = math.log(2) * dim * np.mean(complexity(images))
    entropy = float(bounds.dequantised_entropy(nats, dim))
    return Seen(
        similarity, scales, log_prob, expanded, entropy, map_images(code_length, images=images)
    )


class Curve(NamedTuple):
    """A pair P, Q over lambda, nats a dimension; [L] each.

    Attributes:
      measured: E_{P'} log p - E_{Q'} log p, guarded; NaN where a density has overflown.
      error: its standard error.
      known: the certificate that knows of Q only that pixels have 256 levels.
      estimated: the certificate with H(Q) estimated by a lossless code.
      expansion: the second-order prediction of the gap itself.
      auroc: of -log p after noise, in [0, 1].
    """

    measured: np.ndarray
    error: np.ndarray
    known: np.ndarray
    estimated: np.ndarray
    expansion: np.ndarray
    auroc: np.ndarray


def over_lambda(p: Seen, q: Seen, dim: int) -> Curve:
    """The gap between the images of P and Q, of `dim` dimensions, and its certificates."""
    gaps, errors = jax.vmap(monte_carlo.gap)(p.surprise, q.surprise)
    overflown = ~np.isfinite(np.concatenate([p.log_prob, q.log_prob], axis=1)).all(axis=1)
    entropy = jax.vmap(lambda at: bounds.perturbed_images(at, q.entropy, SCALE_ENTROPY, dim))
    id_term = p.log_prob.mean(axis=1)
    proofs = [certificate.gap(np.float64(h) / dim, id_term) for h in entropy(q.scales)]
    return Curve(
        np.where(overflown, np.nan, gaps),
        np.asarray(errors),
        *proofs,
        p.expansion.mean(axis=1) - q.expansion.mean(axis=1),
        np.array([metrics.auroc(*both) for both in zip(p.surprise, q.surprise, strict=True)]),
    )
