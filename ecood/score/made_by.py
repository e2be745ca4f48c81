"""Parts that only a user's code can make, saved as where it is made: "my_package.model:make".

`make()` gives the pair (flow, encoder). A scorer's file names it, and says by which weights and
numbers its parts are known again. Nothing of it is imported until the user names it, too (`trust`).
"""

import importlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood import encoders, keys, memory, models
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow

if TYPE_CHECKING:
    from ecood.score import Scorer

__all__ = ["Recorded", "check", "own_parts", "parse", "record", "remake"]

PATH = re.compile(r"(?!__main__:)[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
EXPECTED = "the pair (flow, encoder), or None for one that ecood can save itself"
NUMBERS = 8  # of an embedding, by which an encoder is known again
TOLERANCE = 1e-3  # between platforms

Parts = dict[str, Any]


class Recorded(NamedTuple):
    """Where parts come from, and each one's identity and numbers."""

    path: str
    parts: dict[str, tuple[str, np.ndarray]]


def check(path: str, flow: Flow, encoder: Encoder) -> None:
    """Refuses, when a scorer is fitted, a path that does not give its own parts again."""
    made = _call(path)
    for part, given in own_parts(flow, encoder).items():
        if made[part] is None or models.identity(made[part]) != models.identity(given):
            raise InputError(
                f"{path} gives another {part} than the one that is given, or one with other "
                "weights; fit what it gives."
            )


def record(scorer: "Scorer") -> Parts:
    """What a scorer's file says of the parts that ecood cannot save; {} if there are none."""
    own = own_parts(scorer.flow, scorer.encoder)
    if scorer.made_by is None or not own:
        return {}
    known = {
        part: {
            "identity": models.identity(given),
            "numbers": _numbers(given, scorer.image_shape).tolist(),
        }
        for part, given in own.items()
    }
    return {"path": scorer.made_by} | known


def parse(recorded: Parts) -> Recorded:
    """What `record` wrote; a KeyError, TypeError or ValueError if it is damaged."""
    parts = {
        part: (str(known["identity"]), np.array(known["numbers"], np.float64))
        for part, known in recorded.items()
        if part in ("flow", "encoder")
    }
    if not parts:
        raise ValueError("made_by, which names no part")
    return Recorded(str(recorded["path"]), parts)


def remake(
    recorded: Recorded, trust: str | None, image_shape: tuple[int, ...], where: Any
) -> Parts:
    """The parts by name, from the user's code.

    Raises:
      InputError: if the user does not trust this very path, of which nothing is run then, or if it
        no longer gives these parts.
    """
    path, parts = recorded
    if trust != path:
        given = "" if trust is None else f", not from {trust}"
        verb = "comes" if len(parts) == 1 else "come"
        raise InputError(
            f"the {' and '.join(parts)} of {where} {verb} from {path}{given}, which is imported "
            f"and called only if you say so; if you trust that code, give trust={path!r}, on the "
            f"command line --trust {path}."
        )
    made = _call(path)
    for part, (identity, numbers) in parts.items():
        found = made[part]
        same = found is not None and models.identity(found) == identity
        if not (same and _alike(_numbers(found, image_shape), numbers)):
            raise InputError(
                f"{path} gives another {part} than {where} was saved with "
                f"({'it computes other numbers' if same else 'its weights differ'}); use the "
                "version that it was saved with, or fit again."
            )
    return {part: made[part] for part in parts}


def own_parts(flow: Flow, encoder: Encoder) -> Parts:
    """Those of the parts that ecood cannot save."""
    known = {
        "flow": flow.architecture,
        "encoder": models.describe(encoder.function, encoders.MODULES.values()),
    }
    given = {"flow": flow, "encoder": encoder}
    return {part: given[part] for part, architecture in known.items() if architecture is None}


def _call(path: str) -> Parts:
    if not PATH.fullmatch(path):
        raise InputError(
            f"{path!r} is no import path; expected one such as 'my_package.model:make', of a "
            "module that other programs can import."
        )
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)()
    except Exception as error:  # whatever the user's code runs into
        reason = [*str(error).splitlines(), ""][0]
        raise InputError(
            f"{path} cannot be imported and called ({type(error).__name__}: {reason}); run where "
            f"{module} can be imported, and its function {name}() needs no arguments."
        ) from error
    kinds = (Flow | None, Encoder | None)
    fits = isinstance(found, tuple) and len(found) == 2
    if not (fits and all(map(isinstance, found, kinds))):
        raise InputError(f"{path} gives a {type(found).__name__}; expected {EXPECTED}.")
    return dict(zip(("flow", "encoder"), found, strict=True))


def _numbers(part: Flow | Encoder, image_shape: tuple[int, ...]) -> np.ndarray:
    """What it computes of two ramps: nats, or the first numbers of embeddings of norm 1."""
    size = int(np.prod(image_shape))
    ramp = np.linspace(0, 255, size).astype(np.uint8).reshape(image_shape)
    images = np.stack([ramp, ramp[::-1] // 2])
    if isinstance(part, Flow):
        found = jax.jit(type(part).log_prob)(part, keys.make(0), np.float32(images + 0.5) / 256)
        return np.asarray(found, np.float64)
    found = jax.jit(type(part).embed)(part, images).astype(jnp.float32)
    return np.asarray(memory.unit_norm(found)[:, :NUMBERS], np.float64)


def _alike(found: np.ndarray, known: np.ndarray) -> bool:
    if found.shape != known.shape:
        return False
    scale = np.max(np.abs(known), initial=0, where=np.isfinite(known))
    return np.allclose(found, known, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
