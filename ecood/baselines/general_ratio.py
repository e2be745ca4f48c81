"""A general flow against the specific one: what the image owes to being of the ID images' kind."""

from typing import NamedTuple

import flax.struct
import jax

from ecood.detector import Detector, already_fitted
from ecood.flows import Flow
from ecood.statistics import bits, guarded_ratio, last_level_bits

__all__ = ["GeneralScored", "GeneralState", "general_ratio"]


@flax.struct.dataclass
class GeneralState:
    """The flow, the general one, and whether only last levels count, which is static."""

    flow: Flow
    general: Flow
    last_level: bool = flax.struct.field(pytree_node=False, default=False)


class GeneralScored(NamedTuple):
    """The score and its terms, -log p and -log p_general; bits/dim, float32 [B]."""

    score: jax.Array
    bits: jax.Array
    general_bits: jax.Array


def general_ratio(flow: Flow, general: Flow, *, last_level: bool = False) -> Detector:
    """log p_general(x) - log p(x) in bits/dim.

    `general` is a flow of the same architecture, trained on images of many kinds: what all images
    share, and a convolutional network learns first, cancels. With `last_level` the score takes
    only what the last levels add to the two log-densities (`Flow.log_prob_of_levels`).

    The general images must not be chosen with an eye to OOD ones; if they hold images of the OOD
    kind, the detector has seen such images. The paper's outlier loss, which trains the specific
    flow against the general images, is left out: here flows see ID images only.

    Source: Schirrmeister et al. 2020, "Understanding Anomaly Detection with Deep Invertible
    Networks through Hierarchies of Distributions and Features".
    """
    return Detector(already_fitted(GeneralState(flow, general, last_level)), _detect)


def _detect(state: GeneralState, key: jax.Array, images: jax.Array) -> GeneralScored:
    measure = last_level_bits if state.last_level else bits
    cost, general = (measure(flow, key, images) for flow in (state.flow, state.general))
    return GeneralScored(guarded_ratio(cost, general), cost, general)
