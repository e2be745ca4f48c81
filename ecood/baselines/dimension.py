"""Dimensions without an estimate by a few products: of images, and of a flow around one."""

import jax
import jax.numpy as jnp
import numpy as np

from ecood.flows import Flow
from ecood.statistics import dequantised

__all__ = ["exact_spectrum", "images_dimension"]

NEIGHBOURS = 20
MOST_QUERIES = 1000  # images whose neighbours are searched for
BLOCK = 1024  # images that are compared with the queries at a time
CHUNK = 64  # rows of a Jacobian at a time


def images_dimension(images: np.ndarray) -> float:
    """The intrinsic dimension of a set of images, by the distances to their 20 nearest neighbours.

    The estimate of maximum likelihood, its inverse averaged over at most 1,000 images, evenly
    spaced; neighbours are searched for in all. Images are uint8 [N, H, W, C], N >= 3, no two of
    them equal.

    Source: Levina & Bickel 2004, "Maximum Likelihood Estimation of Intrinsic Dimension"; MacKay &
    Ghahramani 2005 for the average.
    """
    flat = images.reshape(len(images), -1)
    queries = np.float64(flat[:: -(-len(flat) // MOST_QUERIES)])
    k = min(NEIGHBOURS, len(flat) - 1)
    nearest = np.empty((len(queries), 0))
    for start in range(0, len(flat), BLOCK):
        some = np.float64(flat[start : start + BLOCK])
        # Exact in float64: all terms are whole numbers.
        squares = _squared_norms(queries)[:, None] + _squared_norms(some) - 2 * queries @ some.T
        nearest = np.partition(np.hstack([nearest, squares]), k, axis=1)[:, : k + 1]
    nearest = np.sort(nearest, axis=1)[:, 1:]  # the first is the query itself
    log_distance = 0.5 * np.log(np.maximum(nearest, 1.0))
    return 1 / float(np.mean(log_distance[:, -1:] - log_distance[:, :-1]))


def _squared_norms(rows: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", rows, rows)


def exact_spectrum(flow: Flow, key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All eigenvalues of (J J^T)^-1 = G^T G, G = dz/dx at the dequantised image, and ones.

    Float32 [B, D] each, in the form of `intrinsic_dimension.local_spectrum`. They are squared
    singular values of G, one image at a time: D passes back through the flow, and D^2 floats.
    """

    def one(x: jax.Array) -> jax.Array:
        def latent(flat: jax.Array) -> jax.Array:
            return flow.forward_and_log_det(key, flat.reshape(1, *x.shape))[0][0]

        z, pull_back = jax.vjp(latent, x.reshape(-1))
        units = jnp.eye(len(z), dtype=z.dtype)
        rows = jax.lax.map(lambda row: pull_back(row)[0], units, batch_size=CHUNK)
        return jnp.linalg.svd(rows, compute_uv=False) ** 2

    nodes = jax.lax.map(one, dequantised(key, images))
    return nodes, jnp.ones_like(nodes)
