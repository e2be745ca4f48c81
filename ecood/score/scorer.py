"""The door for users: a fitted detector that takes images."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecood import devices, encoders, keys, splits
from ecood.batches import map_images
from ecood.detector import Detector, Score
from ecood.digests import digest, named
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.images import check_images
from ecood.score import export, files, publish, traced
from ecood.score.beside import Beside, Embeddings, check_embeddings, looked_up
from ecood.score.explain import Explain, Explanation
from ecood.score.forms import RECOMMENDED
from ecood.score.made_by import check as check_made_by
from ecood.score.parts import check_kinds, check_parts
from ecood.score.spem import Detection, SPEMState, check_strength, detect, spem, spem_of_form
from ecood.score.thresholds import Thresholds
from ecood.score.thumbnails import Thumbnails, make
from ecood.splits import Split
from ecood.words import number_of

__all__ = ["Scorer", "fit", "load"]

Progress = Callable[[int], None] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer(Thresholds):
    """A fitted SPEM detector, called with images.

    Wherever it takes images, it takes `embeddings` beside them, float [N, d]: those that its
    encoder would give, and must be given if that runs elsewhere (`ecood.encoders.elsewhere`). And
    `progress` is called with the number of images done since its last call.

    Attributes:
      state: flow, encoder, memory bank, noise strength and reference: all that scores.
      image_shape: (H, W, C) of the images it was built for.
      seed: of the noise; an image's noise depends on it and on its own pixels only.
      calibration: float32 [n], the scores of the calibration images in ascending order,
        or None; `calibrate` makes a scorer that has them.
      fitted_on: fingerprints of the images that bank, noise strength and reference were
        made from (`ecood.splits.remember`), or None if they are not known.
      thumbnails: the images of the bank as small files, by row, or None; for people alone.
      made_by: the import path of the function that makes its flow and encoder, if they are your
        own (`fit`), or None.
      card: what `python -m ecood fit` measured and did, in JSON values, or None.
    """

    state: SPEMState
    image_shape: tuple[int, int, int]
    seed: int = 0
    calibration: np.ndarray | None = None
    fitted_on: np.ndarray | None = None
    thumbnails: Thumbnails | None = None
    made_by: str | None = None
    card: dict[str, Any] | None = None

    def __repr__(self) -> str:
        state = self.state
        bank = ", ".join(f"{leaf.dtype} {list(leaf.shape)}" for leaf in jax.tree.leaves(state.bank))
        calibrated = "not calibrated"
        if self.calibration is not None:
            calibrated = f"calibrated on {number_of(len(self.calibration), 'image')}"
        return (
            f"Scorer(images {list(self.image_shape)}, {self.flow}, {self.encoder}, bank {bank}, "
            f"lambda {float(state.noise_strength):.4g}, {calibrated})"
        )

    @property
    def flow(self) -> Flow:
        """The density."""
        return self.state.flow

    @property
    def encoder(self) -> Encoder:
        """The semantic encoder."""
        return self.state.encoder

    @property
    def identity(self) -> str:
        """SHA-256 over all that decides its scores; your own functions are known by their names."""
        state, flow = self.state, self.flow
        code = flow.density, flow.latent, state.form, getattr(state.aim, "func", None)
        static = *map(named, code), str(state.draws), state.neighbours, self.seed
        return digest(state, encoders.identity(self.encoder), static)

    def __call__(
        self, images: Any, *, embeddings: Any = None, progress: Progress = None
    ) -> np.ndarray:
        """Scores images, uint8 [N, H, W, C] to float32 [N]; larger = more OOD.

        Images of another shape or dtype, or none, are an InputError, and so are embeddings that
        are not finite, or not as many.
        """
        if self.state.form == RECOMMENDED:  # which needs all that `detect` tells: one program
            return self.detect(images, embeddings=embeddings, progress=progress).score
        return self._map(Score(detect), images, embeddings, progress)

    def detect(
        self, images: Any, *, embeddings: Any = None, progress: Progress = None
    ) -> Detection:
        """As calling the scorer, with everything that the score was made from beside it."""
        return self._map(detect, images, embeddings, progress)

    def explain(
        self,
        images: Any,
        *,
        neighbours: int = 5,
        embeddings: Any = None,
        progress: Progress = None,
    ) -> Explanation:
        """Why images, uint8 [N, H, W, C], have their scores; see `ecood.score.explain`.

        `neighbours` is how many of the nearest images of the bank to name, maybe 0. An InputError
        for more than it has, and for images that cannot be scored.
        """
        rows = len(jax.tree.leaves(self.state.bank)[0])
        whole = isinstance(neighbours, int | np.integer) and not isinstance(neighbours, bool)
        if not (whole and 0 <= neighbours <= rows):
            raise InputError(
                f"neighbours is {neighbours!r}; expected a whole number from 0 to {rows}, the rows "
                "of the bank."
            )
        return self._map(Explain(neighbours), images, embeddings, progress)

    @devices.without_mesh()
    def _map(
        self, function: Callable[..., Any], images: Any, embeddings: Any, progress: Progress
    ) -> Any:
        given = images = check_images(images, self.image_shape)
        if embeddings is not None:
            rows, *_ = jax.tree.leaves(self.state.bank)
            embeddings = check_embeddings(embeddings, len(images), rows.shape[-1])
            function, given = Beside(function), (images, embeddings)
        arguments = self.state, keys.make(self.seed)
        if function == detect:
            function, arguments = traced.ready(self.state, self.seed, self.image_shape)
        return map_images(function, *arguments, images=given, progress=progress)

    def calibrate(self, id_images: Any, **options: Any) -> "Scorer":
        """A new scorer with thresholds and p-values, from in-distribution images.

        Args:
          id_images: uint8 [n, H, W, C], that nothing was made from: neither flow,
            encoder, bank nor noise strength. What is flagged later is only as right as
            they are like the images to come. Copies of an image count as one.
          **options: those of `__call__`.

        Raises:
          InputError: for images that cannot be scored, or if even one of them is known
            to have been used (`unknown` names the parts for which that cannot be told).
        """
        id_images = check_images(id_images, self.image_shape)
        for used, what in self._used().values():
            splits.check_new(id_images, used, what)
        scores = np.sort(self(id_images, **options)[splits.distinct(id_images)])
        card = self.card
        if card and isinstance(counts := card.get("images"), dict):
            card = card | {"images": counts | {"calibration": len(scores)}}
        return dataclasses.replace(self, calibration=scores, card=card)

    def made_from(self, images: Any) -> np.ndarray:
        """Which of the images, uint8 [N, H, W, C], it is known to be made from, bool [N].

        That is flow, encoder, bank, noise strength or reference. Their scores are better than new
        images' are, so p-values and false-positive rates do not hold for them.
        """
        images = check_images(images, self.image_shape)
        used = [part for part, _ in self._used().values() if part is not None]
        return splits.is_known(images, np.concatenate(used) if used else None)

    @property
    def unknown(self) -> list[str]:
        """The parts of which it is not known which images they were made from."""
        return [part for part, (used, _) in self._used().items() if used is None]

    def _used(self) -> dict[str, tuple[np.ndarray | None, str]]:
        return {
            "flow": (self.flow.trained_on, "to train the flow"),
            "encoder": (self.encoder.trained_on, "to train the encoder"),
            "bank": (self.fitted_on, "for the memory bank, the noise strength or the reference"),
        }

    @property
    def detector(self) -> Detector:
        """The same as a `Detector`, with the noise strength fixed to this scorer's.

        Raises:
          InputError: if this is a control, whose aim `fit` would have to find anew.
        """
        state = self.state
        if state.aim is not None:
            raise InputError(
                "this scorer's noise is aimed by a control; make its detector by what made the "
                "control, such as ecood.score.constant_noise."
            )
        return spem_of_form(
            state.form,
            state.flow,
            state.encoder,
            noise_strength=float(state.noise_strength),
            draws=state.draws.count,
            antithetic=state.draws.antithetic,
            neighbours=state.neighbours,
        )

    def with_noise_strength(self, noise_strength: float) -> "Scorer":
        """The same scorer at another lambda, to be calibrated anew; nothing is compiled again.

        The reference stays that of the old lambda; `fit` measures it anew. Its card, which tells
        what was measured at the old one, it has not.
        """
        check_strength(noise_strength)
        if noise_strength == "auto":
            raise InputError("noise_strength is 'auto', which `fit` chooses; expected a number.")
        state = self.state.replace(noise_strength=jnp.float32(noise_strength))
        return dataclasses.replace(self, state=state, calibration=None, card=None)

    def export(self, path: str | os.PathLike, platforms: Sequence[str] = export.PLATFORMS) -> None:
        """Writes one file that jax alone can run, on any platform; see `ecood.score.export`."""
        export.export(self, path, platforms)

    def save(self, directory: str | os.PathLike, *, by_reference: bool = False) -> None:
        """Writes the scorer to a new or empty directory, or over an older scorer.

        The directory appears whole or not at all. `by_reference` leaves out the
        encoder's weights, see `ecood.encoders.save`.

        Raises:
          InputError: if flow or encoder are your own and it is not known where they are made
            (`made_by`), if the directory holds something else, or if it cannot be written.
        """
        files.save(self, directory, by_reference=by_reference)

    def push_to_hub(
        self, repository: str, *, data: str = "", private: bool = False, thumbnails: bool = False
    ) -> str:
        """Publishes the scorer on the Hugging Face hub; `load("hf:owner/name")` reads it.

        Its card says what the scorer knows: what it is made of, bits/dim, thresholds and between
        which rates they lie, and what `python -m ecood fit` measured. A scorer that is there is
        replaced. Needs `pip install 'ecood[hub]'`, and a token that may write.

        Args:
          repository: "owner/name".
          data: words about the in-distribution images for the card: what, from where, which
            licence.
          private: of a new repository.
          thumbnails: whether the images of the bank are published, too.

        Returns:
          The address of its page.

        Raises:
          InputError: if the scorer cannot be saved, or the repository not be written.
        """
        return publish.push(self, repository, data=data, private=private, thumbnails=thumbnails)


def fit(
    flow: Flow,
    encoder: Encoder,
    id_images: Split | Any,
    *,
    noise_strength: float | str = "auto",
    gain: bool = True,
    draws: int = 1,
    antithetic: bool = False,
    seed: int = 0,
    thumbnails: bool = False,
    embeddings: Embeddings | None = None,
    made_by: str | None = None,
) -> Scorer:
    """Fits SPEM around your own flow and encoder.

    Args:
      flow: the density, trained on `split.train`.
      encoder: the semantic encoder.
      id_images: in-distribution, a `Split` (`ecood.splits.draw`), whose calibration part, if it
        has one, gives the thresholds; or an array, uint8 [N, H, W, C], of which a twentieth is
        held out, none that flow or encoder remember.
      noise_strength: lambda, or "auto" (see `ecood.score.choose_strength`).
      gain: False for the paper's form (see `ecood.score.spem`). Other forms and more neighbours are
        those of the detector `ecood.score.spem_of_form`, whose state makes a `Scorer`.
      draws: noise draws per image.
      antithetic: whether draws come in pairs with opposite noise.
      seed: of the noise.
      thumbnails: whether the scorer keeps the images of the bank, as lossless PNG files of at most
        64 pixels a side (`ecood.score.thumbnails`), to show the nearest one.
      embeddings: what the encoder gives for the parts of the `Split`, computed elsewhere.
      made_by: where your own flow or encoder, which ecood cannot save, come from: the import path
        `"my_package.model:make"` of a function without arguments that gives the pair (flow,
        encoder). It is called now, to see that it does; a scorer that is saved names it, and
        `load` calls it again if it is trusted.

    Returns:
      The scorer, calibrated if the split has a calibration part.

    Raises:
      InputError: for images or settings that cannot be used, parts of the split that share
        images, held-out or calibration images that flow or encoder are known to be trained on, a
        flow or encoder that gives NaN or infinity, or a path that gives others.
    """
    check_kinds(flow, encoder)
    check_strength(noise_strength)
    keys.check_seed(seed)
    if embeddings is not None:
        splits.check_split(id_images)
    split = splits.as_split(id_images, flow, encoder)
    shape = split.train.shape[1:]
    if made_by is not None:
        check_made_by(made_by, flow, encoder)
    embed = encoder
    if embeddings is not None:
        embed = looked_up(encoder, split, embeddings, auto=noise_strength == "auto")
    check_parts(flow, embed, shape)
    options = {"gain": gain, "draws": draws, "antithetic": antithetic}
    detector = spem(flow, embed, noise_strength=noise_strength, **options)
    kept = make(split.train) if thumbnails else None
    state = detector.fit(keys.make(seed), split).replace(encoder=encoder)
    fitted_on = splits.remember(np.concatenate([split.train, split.held_out]))
    scorer = Scorer(state, shape, seed, None, fitted_on, kept, made_by)
    if not len(split.calibration):
        return scorer
    known = None if embeddings is None else embeddings.calibration
    return scorer.calibrate(split.calibration, embeddings=known)


def load(name_or_directory: str | os.PathLike, *, trust: str | None = None) -> Scorer:
    """A shipped scorer by name, or one that `Scorer.save` wrote to a directory.

    "hf:owner/name", or "hf:owner/name@revision", is one on the Hugging Face hub, which is fetched
    once, and read from the hub's cache where there is no network (`Scorer.push_to_hub`).

    `trust` is the import path of the code that made its flow or encoder, which is imported and
    called only if it is the one that is given here. An InputError if there is no scorer, or a part
    of it is damaged or does not fit, or comes from code that is not trusted.
    """
    return Scorer(**files.load(name_or_directory, trust))
