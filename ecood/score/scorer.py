"""The door for users: a fitted detector that takes images and keeps itself in a directory."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ecood
from ecood import conformal, encoders, flows, memory, weights
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.images import check_images
from ecood.score import export
from ecood.score.gain import Reference
from ecood.score.parts import check_parts
from ecood.score.spem import (
    Detection,
    SPEMState,
    check_draws,
    check_strength,
    detection_path,
    spem,
)

__all__ = ["Scorer", "fit", "load", "shipped"]

PARTS = ("flow", "encoder", "bank")
PRETRAINED = pathlib.Path(ecood.__file__).parent / "pretrained"
FORMAT = 1
ROUNDING = 1e-5  # how far float32 leaves an image in the bank from a similarity of 1


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A fitted SPEM detector, called with images.

    Attributes:
      flow: the density.
      encoder: the semantic encoder.
      state: flow and encoder variables, memory bank, noise strength.
      image_shape: (H, W, C) of the images it was built for.
      draws: noise draws per image.
      antithetic: whether draws come in pairs with opposite noise.
      seed: of the noise; an image's noise depends on it and on its own pixels only, so the same
        image always has the same score.
      calibration: float32 [n], the scores of the calibration images in ascending order, or None;
        `calibrate` makes a scorer that has them.
    """

    flow: Flow
    encoder: Encoder
    state: SPEMState
    image_shape: tuple[int, int, int]
    draws: int = 1
    antithetic: bool = False
    seed: int = 0
    calibration: np.ndarray | None = None

    def __call__(self, images: Any, *, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Scores images.

        Args:
          images: uint8 [N, H, W, C], any N >= 1.
          progress: called with the number of images done since its last call.

        Returns:
          float32 [N]; larger = more OOD: the score of `ecood.score.spem`, or in the paper's form
            bits/dim of the perturbed images.

        Raises:
          InputError: for images of another shape or dtype, or none.
        """
        return self.detect(images, progress=progress).score

    def detect(self, images: Any, *, progress: Callable[[int], None] | None = None) -> Detection:
        """As calling the scorer, with the similarity and the noise scale beside the score."""
        images = check_images(images, self.image_shape)
        key = jax.random.key(self.seed)
        return map_images(self._program, self.state, key, images=images, progress=progress)

    def calibrate(
        self, id_images: Any, *, progress: Callable[[int], None] | None = None
    ) -> "Scorer":
        """This scorer with thresholds and p-values, from in-distribution images.

        Args:
          id_images: uint8 [n, H, W, C], that nothing was fitted on: not the flow, not the encoder,
            not the bank, not the noise strength. What is flagged later is only as right as they
            are like the images to come.
          progress: called with the number of images done since its last call.

        Returns:
          A new scorer; nothing is compiled again.

        Raises:
          InputError: for images that cannot be scored, or of which most are in the bank (which a
            bank that was compressed to fewer rows cannot tell).
        """
        detection = self.detect(id_images, progress=progress)
        bank = self.state.bank
        dtype = (bank.bank if isinstance(bank, memory.Compressed) else bank).dtype
        in_bank = 1 - max(ROUNDING, float(jnp.finfo(dtype).eps))
        known = int(np.sum(detection.similarity >= in_bank))
        if 2 * known > len(detection.similarity):
            raise InputError(
                f"{known} of {len(detection.similarity)} calibration images are in the memory "
                "bank, so their scores say nothing about new images; calibrate on images that "
                "neither the flow nor the bank was made from."
            )
        return dataclasses.replace(self, calibration=np.sort(detection.score))

    def p_value(self, images: Any, *, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """How likely an ID image scores as high as each of these; small = OOD.

        Args:
          images: uint8 [N, H, W, C].
          progress: called with the number of images done since its last call.

        Returns:
          float64 [N], multiples of 1 / (n + 1); see `ecood.conformal.p_values`.

        Raises:
          InputError: if the scorer is not calibrated, or for images that cannot be scored.
        """
        calibration = self._calibrated()
        return conformal.p_values(calibration, self(images, progress=progress))

    def is_ood(
        self,
        images: Any,
        fpr: float = 0.05,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Flags images, at most a share `fpr` of ID images among them, in expectation.

        Args:
          images: uint8 [N, H, W, C].
          fpr: the share of ID images that may be flagged. With n calibration images, nothing can
            be flagged at an fpr below 1 / (n + 1), and nothing is.
          progress: called with the number of images done since its last call.

        Returns:
          bool [N], True for OOD.

        Raises:
          InputError: as `p_value`, and for an fpr that is not between 0 and 1.
        """
        limit = self.threshold(fpr)
        return self(images, progress=progress) > limit

    def threshold(self, fpr: float = 0.05) -> float:
        """The score above which `is_ood` flags an image, see `ecood.conformal.threshold`."""
        return conformal.threshold(self._calibrated(), fpr)

    def drift(
        self, images: Any, *, progress: Callable[[int], None] | None = None
    ) -> conformal.Drift:
        """Whether a batch is still like the calibration images, see `ecood.conformal.drift`."""
        calibration = self._calibrated()
        return conformal.drift(calibration, self(images, progress=progress))

    def _calibrated(self) -> np.ndarray:
        if self.calibration is None:
            raise InputError(
                "this scorer is not calibrated, so it knows no thresholds and p-values; call "
                "scorer.calibrate(id_images) with in-distribution images that nothing was fitted "
                "on, and use the scorer that it returns."
            )
        return self.calibration

    @functools.cached_property
    def _program(self) -> Callable[[SPEMState, jax.Array, jax.Array], Detection]:
        return detection_path(self.flow, self.encoder, self.draws, self.antithetic)

    @property
    def detector(self) -> Detector:
        """The same as a `Detector`, with the noise strength fixed to this scorer's."""
        strength = float(self.state.noise_strength)
        return spem(
            self.flow,
            self.encoder,
            noise_strength=strength,
            gain=self.state.usual is not None,
            draws=self.draws,
            antithetic=self.antithetic,
        )

    def with_noise_strength(self, noise_strength: float) -> "Scorer":
        """The same scorer at another lambda, to be calibrated anew; nothing is compiled again.

        What is usual among ID images stays as it was at the old one; `fit` measures it anew.
        """
        check_strength(noise_strength)
        state = self.state._replace(noise_strength=jnp.float32(noise_strength))
        return dataclasses.replace(self, state=state, calibration=None)

    def export(self, path: str | os.PathLike, platforms: Sequence[str] = export.PLATFORMS) -> None:
        """Writes one file that jax alone can run, on any platform; see `ecood.score.export`."""
        export.export(self, path, platforms)

    def save(self, directory: str | os.PathLike, *, by_reference: bool = False) -> None:
        """Writes the scorer to a new or empty directory, or replaces an older scorer there.

        The directory appears whole or not at all.

        Args:
          directory: where to.
          by_reference: leave out the encoder's weights, see `ecood.encoders.save`.

        Raises:
          InputError: if flow or encoder are functions that only this program knows, if the
            directory holds something else, or if it cannot be written.
        """
        directory = pathlib.Path(directory)
        if directory.exists() and not directory.is_dir():
            raise InputError(f"{directory} is a file; expected a directory to save the scorer in.")
        foreign = directory.is_dir() and not (directory / "scorer.json").exists()
        if foreign and any(directory.iterdir()):
            raise InputError(
                f"{directory} is not empty and holds no scorer; choose another directory."
            )
        usual = self.state.usual
        description = {
            "format": FORMAT,
            "ecood": ecood.__version__,
            "image_shape": list(self.image_shape),
            "noise_strength": float(self.state.noise_strength),
            "usual": None if usual is None else [np.asarray(part).tolist() for part in usual],
            "draws": int(self.draws),
            "antithetic": bool(self.antithetic),
            "seed": int(self.seed),
        }
        with weights.atomic_directory(directory) as folder:
            (folder / "scorer.json").write_text(json.dumps(description, indent=1) + "\n")
            flows.save(folder / "flow.safetensors", self.flow)
            encoders.save(folder / "encoder.safetensors", self.encoder, by_reference=by_reference)
            memory.save(folder / "bank.safetensors", self.state.bank, self.encoder)
            if self.calibration is not None:
                metadata = {"scorer": _digest(folder, description)}
                scores = {"scores": self.calibration}
                weights.save(folder / "calibration.safetensors", scores, metadata)


def fit(
    flow: Flow,
    encoder: Encoder,
    id_images: Any,
    *,
    noise_strength: float | str = "auto",
    gain: bool = True,
    draws: int = 1,
    antithetic: bool = False,
    seed: int = 0,
) -> Scorer:
    """Fits SPEM around your own flow and encoder.

    Args:
      flow: the density; train it on `ecood.images.hold_out(id_images)[0]`, as `ecood.train`
        does, so that the held-out images are new to it.
      encoder: the semantic encoder.
      id_images: uint8 [N, H, W, C], in-distribution.
      noise_strength: lambda, or "auto" (see `ecood.score.choose_strength`).
      gain: False for the paper's form (see `ecood.score.spem`).
      draws: noise draws per image.
      antithetic: whether draws come in pairs with opposite noise.
      seed: of the noise.

    Raises:
      InputError: for images or settings that cannot be used.
    """
    id_images = check_images(id_images)
    check_parts(flow, encoder, id_images.shape[1:])
    options = {"draws": draws, "antithetic": antithetic}
    detector = spem(flow, encoder, noise_strength=noise_strength, gain=gain, **options)
    state = detector.fit(jax.random.key(seed), id_images)
    return Scorer(flow, encoder, state, id_images.shape[1:], seed=seed, **options)


def shipped() -> list[str]:
    """The names of the scorers that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/scorer.json"))


def load(name_or_directory: str | os.PathLike) -> Scorer:
    """A shipped scorer by name, or one that `Scorer.save` wrote to a directory.

    Args:
      name_or_directory: a folder, or one of the names under `ecood/pretrained`.

    Raises:
      InputError: if there is no such scorer, or a part of it is damaged or does not fit.
    """
    directory = pathlib.Path(name_or_directory)
    if not directory.is_dir():
        if str(name_or_directory) not in shipped():
            raise InputError(
                f"there is no scorer {str(name_or_directory)!r}; expected a directory that "
                f"Scorer.save wrote, or one of {', '.join(shipped())}."
            )
        directory = PRETRAINED / str(name_or_directory)
    description = _read_description(directory)
    try:
        height, width, channels = map(int, description["image_shape"])
        strength = jnp.float32(description["noise_strength"])
        usual = _read_usual(description.get("usual"))
        options = {
            "draws": int(description["draws"]),
            "antithetic": {True: True, False: False}[description["antithetic"]],
            "seed": int(description["seed"]),
        }
        check_strength(float(strength))
        check_draws(options["draws"], options["antithetic"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory / 'scorer.json'} lacks or misstates {error}; it is damaged: copy the "
            "directory again."
        ) from error
    flow = flows.load(directory / "flow.safetensors")
    encoder = encoders.load(directory / "encoder.safetensors")
    bank = memory.load(directory / "bank.safetensors", encoder)
    state = SPEMState(flow.variables, encoder.variables, bank, strength, usual)
    calibration = _read_calibration(directory, description)
    shape = (height, width, channels)
    return Scorer(flow, encoder, state, shape, calibration=calibration, **options)


def _read_usual(parts: Any) -> Reference | None:
    if parts is None:
        return None
    usual = Reference(*(jnp.asarray(part, jnp.float32) for part in parts))
    if not all(part.shape == (3,) and np.isfinite(part).all() for part in usual):
        raise ValueError("usual")
    return usual


def _read_description(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / "scorer.json"
    if not path.is_file():
        raise InputError(f"{directory} holds no scorer.json; expected what Scorer.save wrote.")
    try:
        description = json.loads(path.read_text())
        version = description["format"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged; copy the directory again.") from None
    if version != FORMAT:
        raise InputError(
            f"{path} has format {version}, and this ecood {ecood.__version__} reads format "
            f"{FORMAT}; install the version that wrote it."
        )
    return description


def _read_calibration(directory: pathlib.Path, description: dict[str, Any]) -> np.ndarray | None:
    path = directory / "calibration.safetensors"
    if not path.exists():
        return None
    tree, metadata = weights.load(path)
    if metadata.get("scorer") != _digest(directory, description):
        raise InputError(
            f"{path} was made for a scorer with other weights or settings; calibrate this one "
            "again, or copy its directory again."
        )
    scores = tree.get("scores")
    if scores is None or scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise InputError(f"{path} holds no calibration; expected finite scores [n] in it.")
    return np.sort(scores)


def _digest(directory: pathlib.Path, description: dict[str, Any]) -> str:
    """SHA-256 of all that decides a score, so that no calibration outlives its scorer."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for part in PARTS:
        with open(directory / f"{part}.safetensors", "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
