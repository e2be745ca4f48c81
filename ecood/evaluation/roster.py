"""Who takes part: SPEM, its parts and controls, and the baselines, around one flow and encoder."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from ecood import baselines, encoders, score
from ecood.detector import Detector
from ecood.digests import named
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.evaluation.yours import check_new
from ecood.flows import Flow
from ecood.score.forms import PAPER, RECOMMENDED, Form

__all__ = ["SPEM_FORMS", "NEIGHBOURS", "OF_ENCODERS", "Guests", "roster", "without_flow"]

# The forms whose lambda is read off one measurement, by their detectors' names.
SPEM_FORMS: dict[str, Form] = {"spem": RECOMMENDED, "spem_paper": PAPER}
SPEM_FORMS |= {f"spem_{name}": form for name, form in score.ABLATIONS.items()}
NEIGHBOURS = (5, 10, 50)  # k of the k-NN similarities, beside 1

OF_ENCODERS = ("spem", "similarity")  # what each further encoder is tried in, as "spem_NAME"


class Guests(NamedTuple):
    """What takes part beside one flow and encoder.

    Attributes:
      backgrounds: flows of mutated ID images; without any there is no likelihood ratio.
      members: more flows of the ID images; without any there is no WAIC.
      encoders: tried in the place of the first.
      yours: by name, the function of (flow, encoder) that makes your detector, and its source.
    """

    backgrounds: Sequence[Flow] = ()
    members: Sequence[Flow] = ()
    encoders: Sequence[Encoder] = ()
    yours: Mapping[str, tuple[Callable[[Flow, Encoder], Detector], bytes]] = MappingProxyType({})

    def made(self) -> dict[str, Any]:
        """By detector, what it is made of beside flow and encoder."""
        made = {"likelihood_ratio": self.backgrounds, "waic": self.members}
        made = {name: [(named(f.density), f) for f in of] for name, of in made.items()}
        made |= {
            f"{kind}_{e.name}": encoders.identity(e) for e in self.encoders for kind in OF_ENCODERS
        }
        return made | {name: source for name, (_, source) in self.yours.items()}


def without_flow(guests: Guests) -> set[str]:
    """The names of the detectors that are the same around every flow."""
    of = [*map(str, NEIGHBOURS), *(encoder.name for encoder in guests.encoders)]
    near = {f"similarity_{each}" for each in of}
    return {"similarity", "embedding_gaussian", "embedding_flow"} | near


def roster(
    flow: Flow,
    encoder: Encoder,
    strengths: Mapping[str, float],
    channels: int,
    guests: Guests,
) -> dict[str, Detector]:
    """The detectors by name, SPEM first, for images of C `channels`.

    `strengths` has lambda of each of `SPEM_FORMS`; controls, k-NN similarities and other encoders
    choose their own, as they aim the noise elsewhere.

    Raises:
      InputError: if a guest has the name of another detector.
    """
    more = {}
    if hasattr(flow.density, "log_prob_of_levels"):
        more["last_level"] = baselines.last_level(flow)
    if guests.backgrounds:
        more["likelihood_ratio"] = baselines.likelihood_ratio(flow, *guests.backgrounds)
    if guests.members:
        more["waic"] = baselines.waic(flow, *guests.members)
    own = {"noise_strength": strengths["spem"]}
    random = encoders.random_features(jax.random.key(0), channels)
    forms = {
        name: score.spem_of_form(form, flow, encoder, noise_strength=strengths[name])
        for name, form in SPEM_FORMS.items()
    }
    near = {k: score.spem_of_form(RECOMMENDED, flow, encoder, neighbours=k) for k in NEIGHBOURS}
    known = {
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
        "spem_2_draws": score.spem(flow, encoder, draws=2, **own),
        "spem_2_antithetic": score.spem(flow, encoder, draws=2, antithetic=True, **own),
        **{f"similarity_{k}": score.similarity(encoder, neighbours=k) for k in NEIGHBOURS},
        **baselines.standard(flow, encoder),
        "embedding_flow": baselines.embedding_flow(encoder),
        **more,
    }
    for other in guests.encoders:
        of = {"spem": score.spem(flow, other), "similarity": score.similarity(other)}
        for kind in OF_ENCODERS:
            check_new(f"{kind}_{other.name}", known)
            known[f"{kind}_{other.name}"] = of[kind]
    for name, (make, _) in guests.yours.items():
        check_new(name, known)
        known[name] = make(flow, encoder)
        if not isinstance(known[name], Detector):
            what = type(known[name]).__name__
            raise InputError(f"{name}(flow, encoder) gives a {what}; expected a Detector.")
    return known
