"""Who takes part: SPEM, its parts and controls, and the baselines, around one flow and encoder."""

from collections.abc import Mapping, Sequence

import jax

from ecood import baselines, encoders, score
from ecood.detector import Detector
from ecood.flows import Flow


def roster(
    flow: Flow,
    encoder: encoders.Encoder,
    strengths: Mapping[str, float],
    channels: int,
    backgrounds: Sequence[Flow] = (),
    members: Sequence[Flow] = (),
) -> dict[str, Detector]:
    """The detectors by name, SPEM first, for images of C `channels`.

    `strengths` has lambda of "spem" and of "spem_paper"; ablations and controls choose their own.
    Without `backgrounds`, flows of mutated ID images, there is no likelihood ratio, and without
    `members`, more flows of the ID images, no WAIC.
    """
    more = {}
    if backgrounds:
        more["likelihood_ratio"] = baselines.likelihood_ratio(flow, *backgrounds)
    if members:
        more["waic"] = baselines.waic(flow, *members)
    own, papers = {"noise_strength": strengths["spem"]}, strengths["spem_paper"]
    random = encoders.random_features(jax.random.key(0), channels)
    ablations = {
        f"spem_{name}": score.spem_of_form(
            form, flow, encoder, noise_strength=0.0 if name in score.NO_NOISE else "auto"
        )
        for name, form in score.ABLATIONS.items()
    }
    return {
        "spem": score.spem(flow, encoder, **own),
        "spem_paper": score.spem_paper(flow, encoder, noise_strength=papers),
        "likelihood": score.likelihood(flow),
        "similarity": score.similarity(encoder),
        **ablations,
        "constant_noise": score.constant_noise(flow, encoder),
        "shuffled_noise": score.shuffled_noise(flow, encoder),
        "spem_random_features": score.spem(flow, random),
        "spem_pixels": score.spem(flow, encoders.pixels()),
        "spem_2_draws": score.spem(flow, encoder, draws=2, **own),
        "spem_2_antithetic": score.spem(flow, encoder, draws=2, antithetic=True, **own),
        **baselines.standard(flow, encoder),
        **more,
    }
