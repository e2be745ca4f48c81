"""Forms of the score: how b, b' - b, -s and b - L, standardised, make one number, term by term.

`ecood.score.spem` says what they are and why.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood import statistics
from ecood.statistics import LARGEST, UNIFORM_BITS, Reference

__all__ = [
    "FORMS",
    "PAPER",
    "RECOMMENDED",
    "OF_0_1",
    "Form",
    "Standardised",
    "floored",
    "score_given",
    "standardised",
    "statistics_of",
]

LEAST = -1.0  # interquartile ranges: no more than this speaks any term for an image


class Standardised(NamedTuple):
    """z(b), z(b' - b), z(-s) and z(b - L), float32 [B] each.

    z takes off the median of held-out in-distribution images, and is in their interquartile
    ranges. A scorer of ecood 0.1 has no `excess`.
    """

    bits: jax.Array
    gain: jax.Array
    dissimilarity: jax.Array
    excess: jax.Array | None = None


def floored(*names: str) -> Callable[..., dict[str, jax.Array]]:
    """Of a form, the terms of these names: statistics, or "density", max(z(b), z(b' - b)).

    None is below -1. So one that is far below the median, which says no more than that an image is
    ordinary in this respect, cannot outweigh what another one found: the sum of K is at least each
    less K - 1.
    """

    def terms(perturbed: jax.Array, z: Standardised) -> dict[str, jax.Array]:
        known = z._asdict() | {"density": _density(z)}
        return {name: jnp.maximum(known[name], LEAST) for name in names}

    return terms


def _density(z: Standardised) -> jax.Array:
    return jnp.maximum(z.bits, z.gain)


def _recommended(perturbed: jax.Array, z: Standardised) -> dict[str, jax.Array]:
    """max(z(b), z(b' - b)) + z(-s) + z(b - L), no term below -1."""
    return floored("density", "dissimilarity", "excess")(perturbed, z)


def _of_0_1(perturbed: jax.Array, z: Standardised) -> dict[str, jax.Array]:
    """max(z(b), z(b' - b)) + z(-s)."""
    return {"density": _density(z), "dissimilarity": z.dissimilarity}


def _paper(perturbed: jax.Array, z: Standardised) -> dict[str, jax.Array]:
    """b'."""
    return {"perturbed": perturbed}


def _any(perturbed: np.ndarray) -> bool:
    return True


def _converged(perturbed: np.ndarray) -> bool:
    """False if the median perturbed ID image exceeds 8 bits/dim: the flow has diverged."""
    return bool(np.median(perturbed) <= UNIFORM_BITS)


class Form(NamedTuple):
    """A combination of the statistics, by its name in a scorer's file.

    The score is the sum of `terms(b', z)`, by name (`ecood.score.explain.TERMS`) float32 [B]
    each; `may_choose` tells whether `choose_strength` may take a lambda at which held-out images
    have these b', [N].
    """

    name: str
    terms: Callable[[jax.Array, Standardised], dict[str, jax.Array]]
    may_choose: Callable[[np.ndarray], bool] = _converged


RECOMMENDED = Form("floored", _recommended)
OF_0_1 = Form("recommended", _of_0_1)  # the recommended one of ecood 0.1
PAPER = Form("paper", _paper, _any)
FORMS = {form.name: form for form in (RECOMMENDED, OF_0_1, PAPER)}


def score_given(
    form: Form, reference: Reference, bits: Any, perturbed: Any, similarity: Any, length: Any
) -> jax.Array:
    """The score, float32 [B], of what was measured already: b, b', s and L [B].

    The largest float where it is not finite. A reference of three statistics has none of b - L.
    """
    return _score(form, reference, *map(jnp.asarray, (bits, perturbed, similarity, length)))


@functools.partial(jax.jit, static_argnums=0)  # once, not operation by operation
def _score(form: Form, reference: Reference, *measured: jax.Array) -> jax.Array:
    score = sum(form.terms(measured[1], standardised(reference, *measured)).values())
    return jnp.clip(jnp.nan_to_num(score, nan=LARGEST), -LARGEST, LARGEST)


def standardised(reference: Reference, *measured: jax.Array) -> Standardised:
    """b, b', s and L, float32 [B] each, as `Standardised`."""
    rows = statistics_of(*measured)[: len(reference.centre)]
    return Standardised(*statistics.standardise(rows, reference))


def statistics_of(bits: Any, perturbed: Any, similarity: Any, length: Any) -> list[Any]:
    """What has a reference, in its order: b, b' - b, -s and b - L."""
    return [bits, (perturbed - bits).clip(-LARGEST, LARGEST), -similarity, bits - length]
