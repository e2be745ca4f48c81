"""Controls and ablations: SPEM's noise without its aim, its score without one of its terms.

What SPEM must beat to owe something to its aim, and to each term.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecood import memory
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.flows import Flow
from ecood.score.spem import (
    NO_REFERENCE,
    RECOMMENDED,
    WITHOUT_CODE,
    Form,
    SPEMState,
    detect,
    tune,
)
from ecood.splits import Split, check_split
from ecood.statistics import similarity

__all__ = ["ABLATIONS", "NO_NOISE", "constant_noise", "controlled", "shuffled_noise"]

# The recommended form less a term of it, and less two: the best that needs no noise.
ABLATIONS = {
    "without_gain": Form("without gain", lambda perturbed, z: z[0] + z[2] + z[3]),
    "without_bits": Form("without bits", lambda perturbed, z: z[1] + z[2] + z[3]),
    "without_code": WITHOUT_CODE,
    "without_similarity": Form(
        "without similarity", lambda perturbed, z: jnp.maximum(z[0], z[1]) + z[3]
    ),
    "code_and_similarity": Form("code and similarity", lambda perturbed, z: z[2] + z[3]),
}
NO_NOISE = ("without_gain", "code_and_similarity")  # the ablations that perturb nothing


def constant_noise(flow: Flow, encoder: Encoder, **settings: Any) -> Detector:
    """SPEM with the noise of every image that of the mean similarity of held-out ID images.

    Formula, reference and choice of lambda are those of SPEM in its recommended form, or in
    `form`; `noise_strength` as of `spem`.
    """
    return _control(False, flow, encoder, **settings)


def shuffled_noise(flow: Flow, encoder: Encoder, **settings: Any) -> Detector:
    """SPEM with the noise of every image that of some held-out ID image, dealt out at random.

    The rest as of `constant_noise`.
    """
    return _control(True, flow, encoder, **settings)


def controlled(
    state: SPEMState,
    key: jax.Array,
    held_out: np.ndarray,
    noise_strength: float | str = "auto",
    *,
    shuffled: bool,
) -> SPEMState:
    """A fitted SPEM as a control: noise dealt out, lambda and reference measured with it.

    `held_out` are the images, uint8 [N, H, W, C], that `state` was tuned on.
    """
    s = map_images(similarity, state.encoder, state.bank, images=held_out)
    dealt = jnp.asarray(s if shuffled else np.mean(s, keepdims=True))
    return tune(state.replace(dealt=dealt), key, held_out, noise_strength)


def _control(
    shuffled: bool,
    flow: Flow,
    encoder: Encoder,
    *,
    form: Form = RECOMMENDED,
    noise_strength: float | str = "auto",
) -> Detector:
    def fit(key: jax.Array, split: Split) -> SPEMState:
        train, held_out, _ = check_split(split)
        bank = memory.build(encoder, train)
        state = SPEMState(flow, encoder, bank, jnp.float32(0), NO_REFERENCE, form=form)
        return controlled(state, key, held_out, noise_strength, shuffled=shuffled)

    return Detector(fit, detect)
