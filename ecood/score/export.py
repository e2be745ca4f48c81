"""A scorer as one file that jax alone can run: no flax, no distrax, no ecood.

The file is an `.npz` archive of plain arrays: `program`, the bytes of a `jax.export` artefact for
any number of images and for several platforms; `weight_0000`, `weight_0001`, …, what the program
takes (parameters, memory bank, calibration), in order; and `about`, a JSON text. To run it:

    import jax, jax.export, numpy as np

    with np.load("scorer.npz") as file:
        program = jax.export.deserialize(bytearray(file["program"]))
        weights = [file[name] for name in file.files if name.startswith("weight_")]
    weights, score = jax.device_put(weights), jax.jit(program.call)
    scores = score(weights, images)  # uint8 [N, H, W, C] -> {"score": float32 [N], …}

A program is compiled once for every N, so give it batches of one size, the last one padded.

How long a file can be read: jax promises that what it exports runs on versions up to six months
newer, and up to three weeks older if the program uses nothing newer
(https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees). The weights stay
readable for good; save the scorer's directory beside it, from which a new file can be exported.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

import ecood
from ecood import conformal
from ecood.errors import InputError
from ecood.score.spem import detect
from ecood.weights import atomic_path

if TYPE_CHECKING:
    from ecood.score import Scorer

__all__ = ["PLATFORMS", "export"]

PLATFORMS = ("cpu", "cuda", "tpu")
CARRIERS = {1: np.uint8, 2: np.uint16}  # of the floats that NumPy does not know, by size


def export(scorer: "Scorer", path: str | os.PathLike, platforms: Sequence[str] = PLATFORMS) -> None:
    """Writes a scorer as one file; see the module for how to run it.

    The program gives `score`, `similarity`, `noise_scale` and what else a `Detection` has, and
    `p_value` if the scorer is calibrated, float32 [N] each.

    Args:
      scorer: the scorer; its flow and encoder may be your own functions.
      path: the file to write, ending in `.npz`.
      platforms: where it shall run, of "cpu", "cuda", "rocm" and "tpu"; none of them needs to be
        at hand.

    Raises:
      InputError: for a path or a platform that cannot be used, or a flow or encoder that works
        for one number of images only.
    """
    if os.path.splitext(path)[1] != ".npz":
        raise InputError(f"the export's path is {path}; expected a file name ending in .npz.")
    known = (*PLATFORMS, "rocm")
    platforms = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    if not platforms or not set(platforms) <= set(known):
        raise InputError(
            f"platforms is {list(platforms)}; expected one or more of {', '.join(known)}."
        )
    weights, program = _program(scorer)
    images = jax.ShapeDtypeStruct(
        (jax.export.symbolic_shape("n")[0], *scorer.image_shape), jnp.uint8
    )
    try:
        with _no_locations():
            exported = jax.export.export(jax.jit(program), platforms=platforms)(weights, images)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the scorer cannot be exported for any number of images ({str(error).splitlines()[0]})"
            "; in a flow or encoder of your own, write images.shape[0] instead of len(images)."
        ) from error
    about = {
        "ecood": ecood.__version__,
        "jax": jax.__version__,
        "platforms": platforms,
        "image_shape": scorer.image_shape,
        "calibration_images": 0 if scorer.calibration is None else len(scorer.calibration),
    }
    arrays = {
        "program": np.frombuffer(exported.serialize(), np.uint8),
        "about": np.array(json.dumps(about)),
    }
    arrays |= {f"weight_{i:04}": weight for i, weight in enumerate(weights)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _program(
    scorer: "Scorer",
) -> tuple[list[np.ndarray], Callable[[list[jax.Array], jax.Array], dict[str, jax.Array]]]:
    """What the program takes as plain arrays, and the program of them and the images.

    Weights are arguments, not constants: a program of constants compiles slower, and XLA, which
    computes with them ahead, gives other last bits.
    """
    calibrated = scorer.calibration is not None
    calibration = [scorer.calibration] if calibrated else []
    state = scorer.state
    state = state.replace(  # what they were trained on takes no part in a score
        flow=state.flow.replace(trained_on=None), encoder=state.encoder.replace(trained_on=None)
    )
    leaves, tree = jax.tree.flatten((state, calibration))
    arrays = [np.asarray(leaf) for leaf in leaves]
    dtypes = [array.dtype for array in arrays]
    carried = [a.view(CARRIERS[a.dtype.itemsize]) if a.dtype.kind == "V" else a for a in arrays]

    def program(weights: list[jax.Array], images: jax.Array) -> dict[str, jax.Array]:
        weights = [
            weight if weight.dtype == dtype else jax.lax.bitcast_convert_type(weight, dtype)
            for weight, dtype in zip(weights, dtypes, strict=True)
        ]
        state, calibration = jax.tree.unflatten(tree, weights)
        detection = detect(state, jax.random.key(scorer.seed), images)
        outputs = detection._asdict()
        if calibrated:
            outputs["p_value"] = conformal.p_values_in_graph(calibration[0], detection.score)
        return outputs

    return carried, program


@contextlib.contextmanager
def _no_locations() -> Iterator[None]:
    """Source locations are stripped: they would embed local paths."""
    name = "jax_traceback_in_locations_limit"
    before: Any = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
