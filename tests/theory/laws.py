"""Random Gaussians and mixtures for the tests of the theory, and their float64 test case."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ecood.theory import gaussian, mixture, quadrature
from ecood.theory.gaussian import Gaussian
from ecood.theory.mixture import Mixture
from ecood.theory.quadrature import Grid

COUNT = 100  # laws in a batch; one number, so that every test shares the compiled helpers


class Float64TestCase(chex.TestCase):
    """Every test of the class runs in float64, and no other does."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))


def covariances(rng: np.random.Generator, shape: tuple, dim: int, low: float, high: float):
    """Rotated covariances [*shape, dim, dim], standard deviations log-uniform in [low, high]."""
    axes, _ = np.linalg.qr(rng.normal(size=(*shape, dim, dim)))
    scales = np.exp(rng.uniform(np.log(low), np.log(high), size=(*shape, dim)))
    return jnp.asarray(np.einsum("...ij,...j,...kj->...ik", axes, scales**2, axes))


def gaussians(seed: int, dim: int, low: float = 0.1, high: float = 3.0) -> Gaussian:
    """Random Gaussians, leaves with a leading axis [COUNT]."""
    rng = np.random.default_rng(seed)
    return Gaussian(
        jnp.asarray(rng.normal(size=(COUNT, dim))), covariances(rng, (COUNT,), dim, low, high)
    )


def mixtures(seed: int, dim: int, components: int = 3) -> Mixture:
    """Random mixtures that fit into `grid(dim)`, leaves with a leading axis [COUNT]."""
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.dirichlet(np.full(components, 2.0), size=COUNT))
    means = jnp.asarray(rng.uniform(-2.5, 2.5, size=(COUNT, components, dim)))
    return Mixture(weights, means, covariances(rng, (COUNT, components), dim, 0.4, 1.0))


def first(laws):
    """The first law of a batch."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], laws)


def grid(dim: int) -> Grid:
    """Wide enough for `mixtures` with noise up to 1, fine enough for errors below 1e-7."""
    return quadrature.grid(-10.0, 10.0, 201 if dim == 1 else 71, dim)


@jax.jit
def log_probs(laws: Mixture, points: jax.Array) -> jax.Array:
    """Log-densities of a batch of mixtures, points [M, D] -> [COUNT, M]."""
    return jax.vmap(jax.vmap(mixture.log_prob, in_axes=(None, 0)), in_axes=(0, None))(laws, points)


@jax.jit
def fisher_information(laws: Mixture, grid: Grid) -> jax.Array:
    """J of a batch of mixtures, [COUNT]."""
    return jax.vmap(
        lambda law: quadrature.fisher_information(grid, lambda x: mixture.log_prob(law, x))
    )(laws)


def valley(distance: float = 2.0, scale: float = 0.5):
    """The log-density of two equal modes in one dimension, at +-distance; x [1] -> []."""

    def log_prob(x):
        modes = [-0.5 * ((x[0] + shift) / scale) ** 2 for shift in (-distance, distance)]
        return jnp.logaddexp(*modes) - np.log(2.0 * scale * np.sqrt(2.0 * np.pi))

    return log_prob


# The same integrals for whole batches, compiled once for all tests.
perturbed = jax.jit(jax.vmap(mixture.perturb))
entropy = jax.jit(jax.vmap(quadrature.entropy, in_axes=(None, 0)))
cross_entropy = jax.jit(jax.vmap(quadrature.cross_entropy, in_axes=(None, 0, 0)))
gaussian_entropy = jax.jit(jax.vmap(gaussian.entropy))
gaussian_cross_entropy = jax.jit(jax.vmap(gaussian.cross_entropy))
gaussian_perturbed = jax.jit(jax.vmap(gaussian.perturb))
gaussian_fisher_information = jax.jit(jax.vmap(gaussian.fisher_information))
