"""Who takes part: SPEM, its parts and controls, and the baselines, around one flow and encoder."""

from collections.abc import Iterable, Mapping, Sequence

import jax

from ecood import baselines, encoders, score
from ecood.detector import Detector
from ecood.flows import Flow
from ecood.score.forms import PAPER, RECOMMENDED, Form

__all__ = ["FORMS", "NEIGHBOURS", "WITHOUT_FLOW", "roster"]

# The forms whose lambda is read off one measurement, by their detectors' names.
FORMS: dict[str, Form] = {"spem": RECOMMENDED, "spem_paper": PAPER}
FORMS |= {f"spem_{name}": form for name, form in score.ABLATIONS.items()}
NEIGHBOURS = (5, 10, 50)  # k of the k-NN similarities, beside 1


WITHOUT_FLOW = ("similarity", "embedding")  # how the names of detectors begin that need none


def roster(
    flow: Flow,
    encoder: encoders.Encoder,
    strengths: Mapping[str, float],
    channels: int,
    *,
    backgrounds: Sequence[Flow] = (),
    members: Sequence[Flow] = (),
    others: Iterable[encoders.Encoder] = (),
) -> dict[str, Detector]:
    """The detectors by name, SPEM first, for images of C `channels`.

    `strengths` has lambda of each of `FORMS`; controls, k-NN similarities and other encoders choose
    their own, as they aim the noise elsewhere. Without `backgrounds`, flows of mutated ID images,
    there is no likelihood ratio, and without `members`, more flows of the ID images, no WAIC.
    `others` are encoders to try in the place of the first.
    """
    more = {}
    if hasattr(flow.density, "log_prob_of_levels"):
        more["last_level"] = baselines.last_level(flow)
    if backgrounds:
        more["likelihood_ratio"] = baselines.likelihood_ratio(flow, *backgrounds)
    if members:
        more["waic"] = baselines.waic(flow, *members)
    own = {"noise_strength": strengths["spem"]}
    random = encoders.random_features(jax.random.key(0), channels)
    forms = {
        name: score.spem_of_form(form, flow, encoder, noise_strength=strengths[name])
        for name, form in FORMS.items()
    }
    near = {k: score.spem_of_form(RECOMMENDED, flow, encoder, neighbours=k) for k in NEIGHBOURS}
    return {
        "spem": forms["spem"],
        "spem_paper": forms["spem_paper"],
        "likelihood": score.likelihood(flow),
        "similarity": score.similarity(encoder),
        **forms,
        "constant_noise": score.constant_noise(flow, encoder),
        "shuffled_noise": score.shuffled_noise(flow, encoder),
        "contrast_noise": score.contrast_noise(flow, encoder),
        **{f"spem_{k}_neighbours": detector for k, detector in near.items()},
        "spem_random_features": score.spem(flow, random),
        "spem_pixels": score.spem(flow, encoders.pixels()),
        **{f"spem_{other.name}": score.spem(flow, other) for other in others},
        "spem_2_draws": score.spem(flow, encoder, draws=2, **own),
        "spem_2_antithetic": score.spem(flow, encoder, draws=2, antithetic=True, **own),
        **{f"similarity_{k}": score.similarity(encoder, neighbours=k) for k in NEIGHBOURS},
        **{f"similarity_{other.name}": score.similarity(other) for other in others},
        **baselines.standard(flow, encoder),
        "embedding_flow": baselines.embedding_flow(encoder),
        **more,
    }
