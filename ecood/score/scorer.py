"""The door for users: a fitted detector that takes images and keeps itself in a directory."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ecood
from ecood import encoders, flows, memory
from ecood.batches import map_images
from ecood.detector import Detector
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.images import check_images
from ecood.score.spem import Detection, SPEMState, check_strength, detection_path, spem

__all__ = ["Scorer", "fit", "load", "shipped"]

PRETRAINED = pathlib.Path(ecood.__file__).parent / "pretrained"
FORMAT = 1


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
    """

    flow: Flow
    encoder: Encoder
    state: SPEMState
    image_shape: tuple[int, int, int]
    draws: int = 1
    antithetic: bool = False
    seed: int = 0

    def __call__(self, images: Any, *, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Scores images.

        Args:
          images: uint8 [N, H, W, C], any N >= 1.
          progress: called with the number of images done since its last call.

        Returns:
          float32 [N], bits/dim of the perturbed images; larger = more OOD.

        Raises:
          InputError: for images of another shape or dtype, or none.
        """
        return self.detect(images, progress=progress).score

    def detect(self, images: Any, *, progress: Callable[[int], None] | None = None) -> Detection:
        """As calling the scorer, with the similarity and the noise scale beside the score."""
        images = check_images(images, self.image_shape)
        key = jax.random.key(self.seed)
        return map_images(self._program, self.state, key, images=images, progress=progress)

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
            draws=self.draws,
            antithetic=self.antithetic,
        )

    def with_noise_strength(self, noise_strength: float) -> "Scorer":
        """The same scorer at another lambda; nothing is compiled again."""
        check_strength(noise_strength)
        state = self.state._replace(noise_strength=jnp.float32(noise_strength))
        scorer = dataclasses.replace(self, state=state)
        scorer.__dict__["_program"] = self._program
        return scorer

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the scorer to a new or empty directory, or replaces an older scorer there.

        The directory appears whole or not at all.

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
        description = {
            "format": FORMAT,
            "ecood": ecood.__version__,
            "image_shape": list(self.image_shape),
            "noise_strength": float(self.state.noise_strength),
            "draws": self.draws,
            "antithetic": self.antithetic,
            "seed": self.seed,
        }
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            temporary = pathlib.Path(
                tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent)
            )
        except OSError as error:
            raise InputError(
                f"cannot write to {directory.parent} ({error.strerror}); choose another place."
            ) from error
        try:
            (temporary / "scorer.json").write_text(json.dumps(description, indent=1) + "\n")
            flows.save(temporary / "flow.safetensors", self.flow)
            encoders.save(temporary / "encoder.safetensors", self.encoder)
            memory.save(temporary / "bank.safetensors", self.state.bank, self.encoder)
            temporary.chmod(0o755)
            if directory.exists():
                shutil.rmtree(directory)
            temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def fit(
    flow: Flow,
    encoder: Encoder,
    id_images: Any,
    *,
    noise_strength: float | str = "auto",
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
      draws: noise draws per image.
      antithetic: whether draws come in pairs with opposite noise.
      seed: of the noise.

    Raises:
      InputError: for images or settings that cannot be used.
    """
    id_images = check_images(id_images)
    options = {"draws": draws, "antithetic": antithetic}
    detector = spem(flow, encoder, noise_strength=noise_strength, **options)
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
        image_shape = tuple(description["image_shape"])
        strength = jnp.float32(description["noise_strength"])
        options = {
            "draws": int(description["draws"]),
            "antithetic": bool(description["antithetic"]),
            "seed": int(description["seed"]),
        }
        check_strength(float(strength))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory / 'scorer.json'} lacks or misstates {error}; it is damaged: copy the "
            "directory again."
        ) from error
    flow = flows.load(directory / "flow.safetensors")
    encoder = encoders.load(directory / "encoder.safetensors")
    bank = memory.load(directory / "bank.safetensors", encoder)
    state = SPEMState(flow.variables, encoder.variables, bank, strength)
    return Scorer(flow, encoder, state, image_shape, **options)


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
