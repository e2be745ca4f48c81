"""Complexity and latent density as two variables: how probable is this pair?"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood.baselines.codecs import complexity
from ecood.baselines.gaussian import Gaussian, negative_log_density
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.splits import Split, held_out_of
from ecood.statistics import check_latent, finite, latent_bits, of_id_images

__all__ = ["ComplexityLatentScored", "ComplexityLatentState", "complexity_latent"]

MOST_COMPONENTS = 5


class ComplexityLatentState(NamedTuple):
    """A mixture of K Gaussians over (L, -log p(z)), the two standardised.

    `mean` and `spread` are theirs, [2], weights are [K]; `components` stacks the
    Gaussians' arrays, [K, 2] and [K, 2, 2].
    """

    flow: Flow
    mean: jax.Array
    spread: jax.Array
    log_weights: jax.Array
    components: Gaussian


class ComplexityLatentScored(NamedTuple):
    """The score in nats, and the two variables in bits/dim; float32 [B] each."""

    score: jax.Array
    code_length: jax.Array
    latent_bits: jax.Array


def complexity_latent(flow: Flow) -> Detector:
    """-log of a Gaussian mixture's density at (L(x), -log p(z)), in nats.

    L(x) is the length of the shortest lossless file (`codecs.complexity`, on the host),
    -log p(z) the cost of the standard normal latent without the volume term, both in
    bits/dim. Low complexity raises the density of z, so the density alone misleads;
    beside the complexity it does not. scikit-learn fits the mixture to held-out ID
    images, with the one to five components that the Bayesian information criterion
    prefers: that choice is ours.

    Source: Osada et al. 2024, "Understanding Likelihood of Normalizing Flow and Image
    Complexity through the Lens of Out-of-Distribution Detection".
    """
    check_latent(flow, "complexity_latent")

    def fit(key: jax.Array, split: Split) -> ComplexityLatentState:
        images = held_out_of(split, flow)
        given = images, complexity(images)
        values = of_id_images(map_images(_statistics, flow, key, images=given))
        mean = values.mean(axis=0, dtype=np.float64)
        spread = np.maximum(values.std(axis=0, ddof=1, dtype=np.float64), 1e-6 * (1 + abs(mean)))
        mixture = _fit_mixture((values - mean) / spread)
        cholesky = np.linalg.cholesky(mixture.covariances_)
        return ComplexityLatentState(
            flow,
            jnp.float32(mean),
            jnp.float32(spread),
            jnp.float32(np.log(mixture.weights_)),
            Gaussian(jnp.float32(mixture.means_), jnp.float32(np.linalg.inv(cholesky))),
        )

    return Detector(fit, _detect, complexity)


def _statistics(flow: Flow, key: jax.Array, given: tuple[jax.Array, jax.Array]) -> jax.Array:
    """[B, 2]: L(x) and -log p(z)."""
    images, length = given
    return jnp.stack([length, latent_bits(flow, key, images)[1]], axis=1)


def _detect(
    state: ComplexityLatentState, key: jax.Array, given: tuple[jax.Array, jax.Array]
) -> ComplexityLatentScored:
    statistics = _statistics(state.flow, key, given)
    values = (statistics - state.mean[None]) / state.spread[None]
    costs = jax.vmap(negative_log_density, (0, None), 1)(state.components, values)
    log_density = jax.nn.logsumexp(state.log_weights[None] - costs, axis=1)
    score = finite(jnp.sum(jnp.log(state.spread)) - log_density)
    return ComplexityLatentScored(score, *statistics.T)


def _fit_mixture(values: np.ndarray) -> Any:
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise InputError(
            "the mixture over complexity and latent density is fitted by scikit-learn, which is "
            'not installed; install it with pip install "ecood[baselines]".'
        ) from None
    most = max(1, min(MOST_COMPONENTS, len(values) // 20))
    mixtures = [
        GaussianMixture(k, reg_covar=1e-4, max_iter=1000, random_state=0).fit(values)
        for k in range(1, most + 1)
    ]
    return min(mixtures, key=lambda mixture: mixture.bic(values))
