"""Controls and ablations: SPEM's noise without its aim, its score without one of its terms.

What SPEM must beat to owe something to its aim, and to each term.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ecood import keys, memory
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.flows import Flow
from ecood.images import content_keys
from ecood.score.forms import RECOMMENDED, Form, floored
from ecood.score.spem import NO_REFERENCE, SPEMState, detect, similarities, tune
from ecood.splits import Split, check_split

__all__ = [
    "ABLATIONS",
    "NO_NOISE",
    "by_contrast",
    "constant",
    "constant_noise",
    "contrast_noise",
    "controlled",
    "shuffled",
    "shuffled_noise",
]

# The recommended form less a term of it, and less two: the best that needs no noise.
ABLATIONS = {
    "without_gain": Form("without gain", floored("bits", "dissimilarity", "excess")),
    "without_bits": Form("without bits", floored("gain", "dissimilarity", "excess")),
    "without_code": Form("without code", floored("density", "dissimilarity")),
    "without_similarity": Form("without similarity", floored("density", "excess")),
    "code_and_similarity": Form("code and similarity", floored("dissimilarity", "excess")),
}
NO_NOISE = ("without_gain", "code_and_similarity")  # the ablations that perturb nothing


def constant_noise(flow: Flow, encoder: Encoder, **settings: Any) -> Detector:
    """SPEM with the noise of every image that of the mean similarity of held-out ID images.

    Formula, reference and choice of lambda are those of SPEM in its recommended form, or in
    `form`; `noise_strength` as of `spem`.
    """
    return _control(constant, flow, encoder, **settings)


def shuffled_noise(flow: Flow, encoder: Encoder, **settings: Any) -> Detector:
    """SPEM with the noise of every image that of some held-out ID image, dealt out at random.

    The rest as of `constant_noise`.
    """
    return _control(shuffled, flow, encoder, **settings)


def contrast_noise(flow: Flow, encoder: Encoder, **settings: Any) -> Detector:
    """SPEM with the noise scaled by each image's contrast: aimed, but by no meaning.

    An image's noise is that of `constant_noise`, times the standard deviation of its values over
    the mean one of held-out ID images. The rest as of `constant_noise`.
    """
    return _control(by_contrast, flow, encoder, **settings)


# What aims a control's noise, from held-out ID images [N, H, W, C] and their similarities [N].


def constant(images: np.ndarray, similarity: np.ndarray) -> Partial:
    """The mean similarity for every image."""
    return Partial(_mean, jnp.float32(np.mean(similarity)))


def shuffled(images: np.ndarray, similarity: np.ndarray) -> Partial:
    """One of the similarities for each image, at random."""
    return Partial(_deal, jnp.asarray(similarity))


def by_contrast(images: np.ndarray, similarity: np.ndarray) -> Partial:
    """The mean dissimilarity times the image's contrast, in units of the mean contrast."""
    contrast = max(float(np.mean(_contrast(images))), 1e-3)
    return Partial(_by_contrast, jnp.float32((1 - np.mean(similarity)) / contrast))


def _mean(mean: jax.Array, key: jax.Array, images: jax.Array, similarity: jax.Array) -> jax.Array:
    return jnp.full_like(similarity, mean)


def _deal(dealt: jax.Array, key: jax.Array, images: jax.Array, similarity: jax.Array) -> jax.Array:
    each = content_keys(jax.random.fold_in(keys.threefry(key), 2), images)
    with keys.same_bits():
        return dealt[jax.vmap(lambda k: jax.random.randint(k, (), 0, len(dealt), jnp.int32))(each)]


def _by_contrast(
    ratio: jax.Array, key: jax.Array, images: jax.Array, similarity: jax.Array
) -> jax.Array:
    return 1 - ratio * _contrast(images)


def _contrast(images: jax.Array | np.ndarray) -> jax.Array:
    """The standard deviation of each image's values, in units of the pixel range, [B]."""
    return jnp.std(jnp.asarray(images, jnp.float32), axis=(1, 2, 3)) / 256


def controlled(
    state: SPEMState,
    key: jax.Array,
    held_out: np.ndarray,
    noise_strength: float | str = "auto",
    *,
    by: Callable[[np.ndarray, np.ndarray], Partial],
) -> SPEMState:
    """A fitted SPEM as a control: its noise aimed anew, lambda and reference measured with it.

    `held_out` are the images, uint8 [N, H, W, C], that `state` was tuned on; `by` is one of
    `constant`, `shuffled` and `by_contrast`.
    """
    aim = by(held_out, similarities(state, held_out))
    return tune(state.replace(aim=aim), key, held_out, noise_strength)


def _control(
    by: Callable[[np.ndarray, np.ndarray], Partial],
    flow: Flow,
    encoder: Encoder,
    *,
    form: Form = RECOMMENDED,
    noise_strength: float | str = "auto",
) -> Detector:
    def fit(key: jax.Array, split: Split) -> SPEMState:
        train, held_out, _ = check_split(split, flow, encoder)
        bank = memory.build(encoder, train)
        state = SPEMState(flow, encoder, bank, jnp.float32(0), NO_REFERENCE, form=form)
        return controlled(state, key, held_out, noise_strength, by=by)

    return Detector(fit, detect)
