"""Who takes part: SPEM, its parts and controls, and the baselines, around one flow and encoder."""

import importlib
import inspect
import pathlib
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from ecood import baselines, encoders, score
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.score.forms import PAPER, RECOMMENDED, Form

__all__ = ["SPEM_FORMS", "NEIGHBOURS", "WITHOUT_FLOW", "Guests", "roster", "yours"]

# The forms whose lambda is read off one measurement, by their detectors' names.
SPEM_FORMS: dict[str, Form] = {"spem": RECOMMENDED, "spem_paper": PAPER}
SPEM_FORMS |= {f"spem_{name}": form for name, form in score.ABLATIONS.items()}
NEIGHBOURS = (5, 10, 50)  # k of the k-NN similarities, beside 1

WITHOUT_FLOW = ("similarity", "embedding")  # how the names of detectors begin that need none
OURS = ("__main__", "ecood", "experiments")  # packages: `Cache` knows ecood's source
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
        made |= {
            f"{kind}_{e.name}": encoders.identity(e) for e in self.encoders for kind in OF_ENCODERS
        }
        return made | {name: source for name, (_, source) in self.yours.items()}


def yours(words: Sequence[str]) -> dict[str, tuple[Callable[[Flow, Encoder], Detector], bytes]]:
    """By the name in each MODULE:NAME, the function of (flow, encoder), and the module's source.

    Raises:
      InputError: if one cannot be imported, or is no such function, or two have one name.
    """
    found = {}
    for name, made in map(_yours, words):
        _check_new(name, found)
        found[name] = made
    return found


def _yours(word: str) -> tuple[str, tuple[Callable[[Flow, Encoder], Detector], bytes]]:
    place, _, name = word.partition(":")
    try:
        module = importlib.import_module(place)
        make = getattr(module, name)
        inspect.signature(make).bind("flow", "encoder")
        return name, (make, _source(module))
    except Exception as error:  # whatever your code runs into
        raise InputError(
            f"{word!r} cannot be used ({[*str(error).splitlines(), type(error).__name__][0]}); "
            "expected MODULE:NAME, a function of (flow, encoder)."
        ) from error


def _source(module: types.ModuleType) -> bytes:
    """Of your module, and of what it has imported of its own package or folder."""
    package, folder = module.__name__.partition(".")[0], pathlib.Path(module.__file__).parent
    files = set()
    for name, other in list(sys.modules.items()):
        if isinstance(file := getattr(other, "__file__", None), str):
            path, top = pathlib.Path(file), name.partition(".")[0]
            near = folder in path.parents and "site-packages" not in path.parts
            if top == package or (near and top not in OURS):
                files.add(path)
    return b"".join(path.read_bytes() for path in sorted(files))


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
            _check_new(f"{kind}_{other.name}", known)
            known[f"{kind}_{other.name}"] = of[kind]
    for name, (make, _) in guests.yours.items():
        _check_new(name, known)
        known[name] = make(flow, encoder)
        if not isinstance(known[name], Detector):
            what = type(known[name]).__name__
            raise InputError(f"{name}(flow, encoder) gives a {what}; expected a Detector.")
    return known


def _check_new(name: str, known: Collection[str]) -> None:
    if name in known:
        raise InputError(
            f"two detectors are named {name}; give one of them another name, or leave it out."
        )
