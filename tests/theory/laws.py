"""Random Gaussians and mixtures for the tests of the theory, and their float64 test case.

Everything about them is numpy's, from the textbook: quick, as nothing is compiled, and a check on
`ecood.theory`, of which it uses nothing but the types.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ecood.theory.gaussian import Gaussian
from ecood.theory.mixture import Mixture
from ecood.theory.quadrature import Grid

COUNT = 100  # laws in a batch


class Float64TestCase(chex.TestCase):
    """Every test of the class runs in float64, and no other does."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))


def covariances(rng: np.random.Generator, shape: tuple, dim: int, low: float, high: float):
    """Rotated covariances [*shape, dim, dim], standard deviations log-uniform in [low, high]."""
    axes, _ = np.linalg.qr(rng.normal(size=(*shape, dim, dim)))
    scales = np.exp(rng.uniform(np.log(low), np.log(high), size=(*shape, dim)))
    return np.einsum("...ij,...j,...kj->...ik", axes, scales**2, axes)


def gaussians(seed: int, dim: int, low: float = 0.1, high: float = 3.0) -> Gaussian:
    """Random Gaussians, leaves with a leading axis [COUNT]."""
    rng = np.random.default_rng(seed)
    return Gaussian(rng.normal(size=(COUNT, dim)), covariances(rng, (COUNT,), dim, low, high))


def white(dim: int, variance: float) -> Gaussian:
    """N(0, variance I)."""
    return Gaussian(np.zeros(dim), variance * np.eye(dim))


def mixtures(seed: int, dim: int, components: int = 3) -> Mixture:
    """Random mixtures that fit into `grid(dim)`, leaves with a leading axis [COUNT]."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(components, 2.0), size=COUNT)
    means = rng.uniform(-2.5, 2.5, size=(COUNT, components, dim))
    return Mixture(weights, means, covariances(rng, (COUNT, components), dim, 0.4, 1.0))


def first(laws):
    """The first law of a batch."""
    return type(laws)(*(leaf[0] for leaf in laws))


def perturbed(laws, sigmas):
    """The laws of Y + sigma Z; sigmas [COUNT], or of a mixture [COUNT, K]."""
    (*rest, covariance), sigmas = laws, np.asarray(sigmas)
    sigmas = sigmas.reshape(sigmas.shape + (1,) * (covariance.ndim - sigmas.ndim))
    return type(laws)(*rest, covariance + sigmas**2 * np.eye(covariance.shape[-1]))


# Gaussians ---------------------------------------------------------------------------------------


def gaussian_entropy(laws: Gaussian) -> np.ndarray:
    """H, nats."""
    return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * laws.covariance)[1]


def gaussian_kl(p: Gaussian, q: Gaussian) -> np.ndarray:
    """KL(p || q), nats."""
    ratio = np.linalg.solve(q.covariance, p.covariance)
    shift = p.mean - q.mean
    distance = np.einsum("...i,...ij,...j->...", shift, np.linalg.inv(q.covariance), shift)
    spread = np.trace(ratio, axis1=-2, axis2=-1) - np.linalg.slogdet(ratio)[1]
    return 0.5 * (distance + spread - shift.shape[-1])


def gaussian_cross_entropy(p: Gaussian, q: Gaussian) -> np.ndarray:
    """-E_p log q, nats."""
    return gaussian_entropy(p) + gaussian_kl(p, q)


def gaussian_fisher_information(laws: Gaussian) -> np.ndarray:
    """J, the trace of the precision."""
    return np.trace(np.linalg.inv(laws.covariance), axis1=-2, axis2=-1)


# Mixtures, on a grid -----------------------------------------------------------------------------


@functools.cache
def line(low: float, high: float, n: int) -> Grid:
    """As `quadrature.grid`, of one dimension."""
    axis = np.linspace(low, high, n)
    return Grid(axis, axis[:, None], axis[1] - axis[0])


@functools.cache
def grid(dim: int) -> Grid:
    """Wide enough for `mixtures` with noise up to 1, fine enough for errors below 1e-7."""
    axis = np.linspace(-10.0, 10.0, 201 if dim == 1 else 71)
    points = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    return Grid(axis, points, (axis[1] - axis[0]) ** dim)


def component_log_probs(laws: Mixture, points: np.ndarray) -> np.ndarray:
    """Log-densities of the weighted components, points [M, D] -> [COUNT, K, M]."""
    whiten = np.linalg.inv(np.linalg.cholesky(laws.covariances))
    white = (points - laws.means[:, :, None]) @ whiten.swapaxes(-1, -2)
    norm = np.linalg.slogdet(2 * np.pi * laws.covariances)[1]
    logs = np.log(laws.weights) - 0.5 * norm
    return logs[:, :, None] - 0.5 * np.sum(white**2, axis=-1)


def log_probs(laws: Mixture, points: np.ndarray) -> np.ndarray:
    """Log-densities of a batch of mixtures, points [M, D] -> [COUNT, M]."""
    return np.logaddexp.reduce(component_log_probs(laws, points), axis=1)


def entropy(where: Grid, log_p: np.ndarray) -> np.ndarray:
    """H by the rectangle rule, log_p [..., M]."""
    return cross_entropy(where, log_p, log_p)


def cross_entropy(where: Grid, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """-E_p log q by the rectangle rule, [..., M] each."""
    mass = np.exp(log_p) * where.cell
    return -np.sum(mass * np.where(mass > 0, log_q, 0.0), axis=-1)


def fisher_information(laws: Mixture, where: Grid) -> np.ndarray:
    """J of a batch of mixtures, [COUNT]."""
    parts = component_log_probs(laws, where.points)
    log_p = np.logaddexp.reduce(parts, axis=1)
    pull = (laws.means[:, :, None] - where.points) @ np.linalg.inv(laws.covariances)
    score = np.sum(np.exp(parts - log_p[:, None])[..., None] * pull, axis=1)
    return np.sum(np.exp(log_p) * np.sum(score**2, axis=-1), axis=-1) * where.cell


def valley(distance: float = 2.0, scale: float = 0.5):
    """The log-density of two equal modes in one dimension, at +-distance; x [1] -> []."""

    def log_prob(x):
        modes = [-0.5 * ((x[0] + shift) / scale) ** 2 for shift in (-distance, distance)]
        return jnp.logaddexp(*modes) - np.log(2.0 * scale * np.sqrt(2.0 * np.pi))

    return log_prob
