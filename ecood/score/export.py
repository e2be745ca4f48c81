"""A scorer as one file that jax alone can run: no flax, no distrax, no ecood.

The file is an `.npz` archive of plain arrays: `program`, the bytes of a `jax.export`
artefact for any number of images and for several platforms; `weight_0000`,
`weight_0001`, …, what the program takes (parameters, memory bank, calibration), in
order; and `about`, a JSON text. To run it:

    import jax, jax.export, numpy as np

    with np.load("scorer.npz") as file:
        program = jax.export.deserialize(bytearray(file["program"]))
        weights = [file[name] for name in file.files if name.startswith("weight_")]
    weights, score = jax.device_put(weights), jax.jit(program.call)
    scores = score(weights, images)  # uint8 [N, H, W, C] -> {"score": float32 [N], …}

A program is compiled once for every N: give it batches of one size. `docs/export.md`
says for how long a file can be read.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

import ecood
from ecood import conformal, devices, encoders, keys
from ecood.errors import InputError, check_path
from ecood.score.spem import detect, that_scores
from ecood.weights import atomic_path

if TYPE_CHECKING:
    from ecood.score import Scorer

__all__ = ["PLATFORMS", "export"]

PLATFORMS = ("cpu", "cuda", "tpu")
CARRIERS = {1: np.uint8, 2: np.uint16}  # of the floats that NumPy does not know, by size


@devices.without_mesh()
def export(scorer: "Scorer", path: str | os.PathLike, platforms: Sequence[str] = PLATFORMS) -> None:
    """Writes a scorer as one file; see the module for how to run it.

    The program gives what a `Detection` has, and `p_value` if the scorer is calibrated,
    float32 [N] each. Its flow and encoder may be your own functions.

    Args:
      scorer: the scorer.
      path: the file to write, ending in `.npz`.
      platforms: of "cpu", "cuda", "rocm" and "tpu"; none needs to be at hand.

    Raises:
      InputError: for a path or a platform that cannot be used, or a flow or encoder
        that works for one number of images only.
    """
    check_path(path)
    if os.path.splitext(path)[1] != ".npz":
        raise InputError(f"the export's path is {path}; expected a file name ending in .npz.")
    known = (*PLATFORMS, "rocm")
    platforms = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    if not platforms or not set(platforms) <= set(known):
        raise InputError(
            f"platforms is {list(platforms)}; expected one or more of {', '.join(known)}."
        )
    if isinstance(scorer.encoder.function, encoders.Elsewhere):
        raise InputError(
            f"the scorer cannot be exported, as its encoder {scorer.encoder.name} runs elsewhere, "
            "and a program takes images alone; save it, and score with scorer(images, embeddings=)."
        )
    weights, program = _program(scorer)
    images = jax.ShapeDtypeStruct(
        (jax.export.symbolic_shape("n")[0], *scorer.image_shape), jnp.uint8
    )
    limit = jax.config.jax_traceback_in_locations_limit
    # Source locations would embed local paths.
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        trace = jax.export.export(jax.jit(program), platforms=platforms)
        exported = trace(weights, images)
    except (NotImplementedError, RuntimeError) as error:
        if "callback[" not in str(jax.make_jaxpr(program)(weights, images)):
            raise
        raise InputError(
            "the scorer cannot be exported, as its flow or encoder calls back into Python "
            "(jax.pure_callback), which is in no program; save it by import path (made_by of "
            "ecood.score.fit), or compute embeddings elsewhere (ecood.encoders.elsewhere)."
        ) from error
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the scorer cannot be exported for any number of images ({str(error).splitlines()[0]})"
            "; in a flow or encoder of your own, write images.shape[0] instead of len(images)."
        ) from error
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)
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
    leaves, tree = jax.tree.flatten((that_scores(scorer.state), calibration))
    arrays = [np.asarray(jnp.asarray(leaf)) for leaf in leaves]  # float64 as JAX takes it
    dtypes = [array.dtype for array in arrays]
    carried = [a.view(CARRIERS[a.dtype.itemsize]) if a.dtype.kind == "V" else a for a in arrays]

    def program(weights: list[jax.Array], images: jax.Array) -> dict[str, jax.Array]:
        weights = [
            weight if weight.dtype == dtype else jax.lax.bitcast_convert_type(weight, dtype)
            for weight, dtype in zip(weights, dtypes, strict=True)
        ]
        state, calibration = jax.tree.unflatten(tree, weights)
        detection = detect(state, keys.make(scorer.seed), images)
        outputs = detection._asdict()
        if calibrated:
            outputs["p_value"] = conformal.p_values_in_graph(calibration[0], detection.score)
        return outputs

    return carried, program
