"""ecood's detectors where pytorch-ood or OpenOOD expect theirs, torch not needed.

In pytorch-ood 0.4 and OpenOOD 1.5, images are tensors [N, C, H, W], labels < 0 mark
OOD, and larger means OOD (`predict`) in the one, ID (`conf`) in the other. Their FPR95
is the share of ID flagged at 95% of OOD, `ecood.metrics.fpr_at_ood_tpr`; ours,
`fpr_at_tpr`, the share of OOD accepted at 95% of ID.
"""

import sys
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ecood import keys, splits
from ecood.detector import Detector, scores
from ecood.errors import InputError
from ecood.images import check_images
from ecood.score import Program, Scorer

__all__ = ["PyTorchOOD", "from_tensor", "openood_confidence", "split_by_label"]


class PyTorchOOD:
    """A detector with the interface of `pytorch_ood.api.Detector`.

    `PyTorchOOD(scorer)` predicts at once, as does one around an exported program;
    `PyTorchOOD(detector)` after `fit(loader)`.
    It counts as an instance of pytorch-ood's class where that is loaded. It takes
    images as they are: give it loaders without `Normalize`.
    """

    requires_fit = True
    hyperparameter_space: dict[str, list] = {}
    info = None
    device = None  # JAX places the computation

    def __init__(
        self,
        detector: Scorer | Program | Detector,
        *,
        seed: int = 0,
        used: np.ndarray | None = None,
    ):
        """`seed` is a detector's; a fitted scorer has its own, an exported one its key.

        `used` are fingerprints of images that are not to be held out, as `Flow.trained_on`.
        """
        self._used = used
        self._detector, self.state, self._shape = detector, None, None
        if isinstance(detector, Program):
            self.state, self._shape = detector.state, detector.image_shape
        if isinstance(detector, Scorer):
            self._detector, self.state = detector.detector, detector.state
            self._shape, seed = detector.image_shape, detector.seed
        self._key = keys.make(seed)
        if "pytorch_ood.api" in sys.modules:
            sys.modules["pytorch_ood.api"].Detector.register(type(self))

    def fit(self, data_loader: Iterable[tuple[Any, Any]]) -> "PyTorchOOD":
        """Fits to a loader's ID images; `ecood.splits.draw` holds out a twentieth.

        Batches are (images [B, C, H, W], labels [B]); labels < 0, OOD, are left out.
        """
        if isinstance(self._detector, Program):
            raise InputError("an exported scorer is fitted already; leave fit out.")
        kept = [from_tensor(x)[_to_numpy(y) >= 0] for x, y in data_loader]
        kept = [images for images in kept if len(images)]
        if not kept:
            raise InputError(
                "the loader gives no in-distribution images; expected batches (images, labels) "
                "with labels >= 0."
            )
        id_images = np.concatenate(kept)
        split = splits.draw(id_images, calibration=0.0, used=self._used)
        self.state, self._shape = self._detector.fit(self._key, split), id_images.shape[1:]
        return self

    def predict(self, x: Any) -> Any:
        """Scores, float32 [B], larger = more OOD, of images as of `from_tensor`.

        They are a tensor on the CPU if `x` is one. Raises `InputError` before `fit`.
        """
        if self.state is None:
            raise InputError("predict was called before fit; call fit(loader) with ID images.")
        images = check_images(from_tensor(x), self._shape)
        if isinstance(self._detector, Program):
            found = self._detector(images)
        else:
            found = scores(self._detector, self.state, self._key, images)
        return sys.modules["torch"].from_numpy(found) if hasattr(x, "detach") else found

    __call__ = predict

    def to(self, device: Any) -> "PyTorchOOD":
        """Does nothing: JAX places the computation."""
        del device
        return self


def from_tensor(x: Any) -> np.ndarray:
    """PyTorch's images as ecood's, uint8 [N, H, W, C].

    `x` is a tensor or array [N, C, H, W], uint8, or float in [0, 1] as `ToTensor` makes
    them; others, such as `Normalize` makes, raise an `InputError`.
    """
    array = _to_numpy(x)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise InputError(
            f"images has shape {list(array.shape)}; expected PyTorch's [N, C, H, W] with 1 or 3 "
            "channels."
        )
    if jnp.issubdtype(array.dtype, jnp.floating):
        levels = np.round(np.float32(array) * 255)  # what is rounded is forgiven at both ends
        if not (levels.min(initial=0) >= 0 and levels.max(initial=0) <= 255):
            raise InputError(
                f"images has values from {array.min():.4g} to {array.max():.4g}; expected [0, 1] "
                "or uint8: leave out Normalize, as ecood's encoders own their preprocessing."
            )
        array = levels.astype(np.uint8)
    return check_images(np.ascontiguousarray(array.transpose(0, 2, 3, 1)))


def openood_confidence(ood_scores: Any) -> np.ndarray:
    """OpenOOD's `conf`, which is larger for ID images: the score with its sign turned."""
    return -_to_numpy(ood_scores)


def split_by_label(ood_scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """(ID scores, OOD scores) for `ecood.metrics`; labels < 0 are OOD."""
    ood_scores, labels = _to_numpy(ood_scores), _to_numpy(labels)
    if ood_scores.shape != labels.shape or labels.ndim != 1:
        raise InputError(
            f"there are scores {list(ood_scores.shape)} and labels {list(labels.shape)}; expected "
            "one label a score, < 0 for OOD."
        )
    return ood_scores[labels >= 0], ood_scores[labels < 0]


def _to_numpy(x: Any) -> np.ndarray:
    """Of a tensor with a gradient, on another device or of bfloat16, or a list of them, too."""
    try:
        if isinstance(x, list | tuple) and any(hasattr(each, "detach") for each in x):
            return np.stack([_to_numpy(each) for each in x])
        if not hasattr(x, "detach"):
            return np.asarray(x)
        x = x.detach().cpu()
        return (x.float() if "bfloat16" in str(x.dtype) else x).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"a {type(x).__name__} was given of which no array can be made ({reason}); expected "
            "a dense tensor or array, or tensors of one shape."
        ) from error
