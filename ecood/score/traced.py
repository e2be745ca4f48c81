"""The program that scores, as an earlier process traced it.

Where the compiled program is kept (`ecood.programs`), what is left of the time to the first score
is Python's, which traces thousands of operations and imports what only that needs. So the traced
program is kept, too, as `jax.export` writes it: of flows and encoders of ours, on one device.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np

from ecood import encoders, keys, models, programs
from ecood.batches import BATCH_SIZE
from ecood.score.forms import FORMS
from ecood.score.spem import Detection, SPEMState, detect, that_scores

__all__ = ["ready"]

Program = Callable[..., Detection]


def ready(
    state: SPEMState, seed: int, image_shape: tuple[int, int, int]
) -> tuple[Program, tuple[Any, Any]]:
    """(program, arguments): `program(*arguments, images)` gives the `Detection` of a batch.

    That is `detect`, or the same as it was traced once for all processes.
    """
    state, key = that_scores(state), keys.make(seed)
    name = _name(state, image_shape)
    if name is None:
        return detect, (state, key)
    leaves, tree = jax.tree.flatten(state)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    program = _program(name, tree, shapes, image_shape)
    return program, (leaves, jax.random.key_data(key))


def _name(state: SPEMState, image_shape: tuple[int, int, int]) -> str | None:
    """Of all that decides what is traced; None where that cannot be told, or devices share."""
    encoder = models.describe(state.encoder.function, encoders.MODULES.values())
    architectures = state.flow.architecture, encoder
    foreign = None in architectures or state.form not in FORMS.values() or state.aim is not None
    if foreign or jax.device_count() > 1 or jax.config.jax_default_device is not None:
        return None
    draws = state.draws.count, state.draws.antithetic
    settings = state.form.name, draws, state.neighbours, image_shape, BATCH_SIZE
    return programs.name("traced", architectures, programs.shapes(state), settings)


@functools.lru_cache(maxsize=16)  # the same function again, so that it is compiled once
def _program(name: str, tree: Any, shapes: Any, image_shape: tuple[int, int, int]) -> Program:
    """Read, or else traced and written for the next process."""
    content = programs.read(name)
    with contextlib.suppress(Exception):  # of what nobody can read, in many ways
        if content is not None:
            return _Exported(jax.export.deserialize(bytearray(content)).call)

    def program(leaves: list[jax.Array], key: jax.Array, images: jax.Array) -> list[jax.Array]:
        state = jax.tree.unflatten(tree, leaves)
        return list(detect(state, jax.random.wrap_key_data(key, impl=keys.IMPLEMENTATION), images))

    key = jax.ShapeDtypeStruct((2,), np.uint32)
    images = jax.ShapeDtypeStruct((BATCH_SIZE, *image_shape), np.uint8)
    exported = jax.export.export(jax.jit(program))(list(shapes), key, images)
    programs.write(name, exported.serialize())
    return _Exported(exported.call)


@dataclasses.dataclass(frozen=True, eq=False)
class _Exported:
    call: Callable[..., list[jax.Array]]
    __name__ = detect.__name__  # as JAX calls what it compiles

    def __call__(self, leaves: list[jax.Array], key: jax.Array, images: jax.Array) -> Detection:
        return Detection(*self.call(leaves, key, images))
