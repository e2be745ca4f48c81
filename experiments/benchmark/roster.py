"""Who takes part: SPEM, its parts and controls, and the baselines, around one flow and encoder."""

from collections.abc import Sequence

import jax

import ecood.score
from ecood import baselines, encoders
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.flows import Flow

__all__ = ["roster"]


def roster(
    flow: Flow,
    encoder: Encoder,
    strength: float,
    paper_strength: float,
    channels: int,
    backgrounds: Sequence[Flow] = (),
    members: Sequence[Flow] = (),
) -> dict[str, Detector]:
    """The detectors by name, SPEM first.

    Args:
      flow: the density of the ID images.
      encoder: the semantic encoder.
      strength: SPEM's lambda, chosen on ID images alone; its ablations take the same.
      paper_strength: lambda of the paper's form, chosen likewise; its controls take the same.
      channels: C of the images.
      backgrounds: flows of mutated ID images; without one there is no likelihood ratio.
      members: more flows of the ID images; without one there is no ensemble, and no WAIC.
    """
    more = {}
    if backgrounds:
        more["likelihood_ratio"] = baselines.likelihood_ratio(flow, *backgrounds)
    if members:
        more["waic"] = baselines.waic(flow, *members)
    score = ecood.score
    random = encoders.random_features(jax.random.key(0), channels)
    return {
        "spem": score.spem(flow, encoder, noise_strength=strength),
        "spem_paper": score.spem_paper(flow, encoder, noise_strength=paper_strength),
        "likelihood": score.likelihood(flow),
        "similarity": score.similarity(encoder),
        "constant_noise": score.constant_noise(flow, encoder, paper_strength),
        "shuffled_noise": score.shuffled_noise(flow, encoder, paper_strength),
        "spem_random_features": score.spem(flow, random),
        "spem_pixels": score.spem(flow, encoders.pixels()),
        "spem_2_draws": score.spem(flow, encoder, noise_strength=strength, draws=2),
        "spem_2_antithetic": score.spem(
            flow, encoder, noise_strength=strength, draws=2, antithetic=True
        ),
        **baselines.standard(flow, encoder),
        **more,
    }
