"""An exported scorer, read back: it scores as the scorer did, with nothing else at hand."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np

from ecood import devices
from ecood.batches import map_images
from ecood.code_length import code_length_map
from ecood.digests import digest
from ecood.errors import UNREADABLE, InputError, check_path
from ecood.images import check_images
from ecood.score.explain import Explanation
from ecood.score.spem import Detection
from ecood.score.thresholds import Thresholds
from ecood.words import number_of

__all__ = ["Program", "load_export"]

Progress = Callable[[int], None] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Program(Thresholds):
    """What `Scorer.export` wrote, called with images.

    Attributes:
      function: `(weights, images) -> dict of float32 [B]`, compiled once.
      state: the weights: all that it computes with.
      image_shape: (H, W, C) of the images that it takes.
      calibration: as of a `Scorer`.
      about: what the file says of itself, by name.
      digest: SHA-256 of the program.
    """

    function: Callable[[list[np.ndarray], Any], dict[str, jax.Array]]
    state: list[np.ndarray]
    image_shape: tuple[int, int, int]
    calibration: np.ndarray | None
    about: dict[str, Any]
    digest: str
    seed = None  # it is in the program

    def __repr__(self) -> str:
        calibrated = "not calibrated"
        if self.calibration is not None:
            calibrated = f"calibrated on {number_of(len(self.calibration), 'image')}"
        return f"Program(images {list(self.image_shape)}, {self.digest[:12]}, {calibrated})"

    @property
    def identity(self) -> str:
        """SHA-256 over all that decides its scores."""
        return digest(self.digest, self.state)

    def __call__(self, images: Any, *, progress: Progress = None) -> np.ndarray:
        """Scores images, uint8 [N, H, W, C] to float32 [N]; larger = more OOD."""
        return self.detect(images, progress=progress).score

    def detect(self, images: Any, *, progress: Progress = None) -> Detection:
        """As calling the program, with everything that the score was made from beside it."""
        images = check_images(images, self.image_shape)
        found = map_images(self.function, self.state, images=images, progress=progress)
        return Detection(*(found[name] for name in Detection._fields))

    def made_from(self, images: Any) -> np.ndarray:
        """None, bool [N]: the file does not have what the scorer knew of its images."""
        return np.zeros(len(images), bool)

    def explain(
        self, images: Any, *, neighbours: int = 0, progress: Progress = None
    ) -> Explanation:
        """What of a `Scorer.explain` needs no scorer: the parts, and the map of the code.

        It has neither terms nor the nearest images: `neighbours` must be 0.
        """
        if neighbours:
            raise InputError(
                f"neighbours is {neighbours!r}, and an exported program cannot tell which images "
                "of the bank are the nearest; leave it out."
            )
        found = self.detect(images, progress=progress)
        code = map_images(code_length_map, images=check_images(images, self.image_shape))
        none = np.zeros((len(code), 0), np.float32)
        return Explanation(found, {}, none, none.astype(np.int32), none, None, code)


def load_export(path: str | os.PathLike) -> Program:
    """Reads an `.npz` file that `Scorer.export` wrote; executes no code of it but its program.

    Raises:
      InputError: if there is no such file, it is damaged, of other platforms than this one, or
        written by a version of ecood or jax that this one cannot read.
    """
    check_path(path)
    devices.check()
    if not os.path.isfile(path):
        raise InputError(f"there is no file {path}; expected one that Scorer.export wrote.")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays["about"]))
        weights = [arrays[name] for name in sorted(arrays) if name.startswith("weight_")]
        _, _, _ = shape = tuple(map(int, about["image_shape"]))
        count, platforms = int(about["calibration_images"]), list(about["platforms"])
        calibration = weights[-1] if count else None  # exported last
        if count and (calibration.shape, calibration.dtype) != ((count,), np.float32):
            raise ValueError("its calibration")
        if count and not np.isfinite(calibration).all():
            raise ValueError("its calibration is not finite")
        program = arrays["program"].tobytes()
    except (KeyError, *UNREADABLE) as error:
        raise InputError(
            f"{path} is no scorer that Scorer.export wrote, or it is damaged ({error}); export it "
            "again, or give a scorer's directory."
        ) from error
    here = jax.export.default_export_platform()
    if here not in platforms:
        raise InputError(
            f"{path} was exported for {', '.join(platforms)}, and this is {here}; export it again "
            f"with platforms={[*platforms, here]}."
        )
    try:
        exported = jax.export.deserialize(bytearray(program))
        outputs = _outputs(exported)
    except Exception as error:  # of what another version of jax wrote, in many ways
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise InputError(
            f"the program in {path} cannot be read by jax {jax.__version__} ({reason}); it was "
            f"written by jax {about.get('jax')}: export it again from the scorer's directory."
        ) from error
    if lacking := [name for name in Detection._fields if name not in outputs]:
        raise InputError(
            f"{path} gives no {', '.join(lacking)}; it was written by ecood {about.get('ecood')}: "
            "export it again from the scorer's directory."
        )
    takes = [(each.shape, each.dtype) for each in exported.in_avals[:-1]]  # the images are last
    if takes != [(weight.shape, weight.dtype) for weight in weights]:
        raise InputError(
            f"the weights in {path} are not those that its program takes; it is damaged: export it "
            "again from the scorer's directory."
        )
    known = hashlib.sha256(program).hexdigest()
    return Program(_Function(exported.call), weights, shape, calibration, about, known)


def _outputs(exported: jax.export.Exported) -> list[str]:
    """The names of what it gives."""
    tree: Any = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return list(tree)


@dataclasses.dataclass(frozen=True, eq=False)  # `map_images` compiles it once
class _Function:
    call: Callable[..., Any]

    def __call__(self, weights: list[jax.Array], images: jax.Array) -> dict[str, jax.Array]:
        return self.call(weights, images)
