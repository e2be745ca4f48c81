"""What calibration scores add to a score: p-values, flags, drift."""

from typing import Any

import numpy as np

from ecood import conformal
from ecood.errors import InputError

__all__ = ["FPRS", "Thresholds"]

FPRS = (0.01, 0.05, 0.1)  # whose thresholds are told of a scorer


class Thresholds:
    """Of whatever scores images when it is called, and may have a calibration.

    Attributes:
      calibration: float32 [n], the scores of the calibration images in ascending order, or None.
    """

    calibration: np.ndarray | None

    def __call__(self, images: Any, **options: Any) -> np.ndarray:
        """Scores images, uint8 [N, H, W, C] to float32 [N]; larger = more OOD."""
        raise NotImplementedError

    def p_value(self, images: Any, **options: Any) -> np.ndarray:
        """How likely an ID image scores as high as each of these; small = OOD.

        float64 [N], multiples of 1 / (n + 1); see `ecood.conformal.p_values`. An
        InputError if there is no calibration, or for images that cannot be scored.
        Options, here and below, are those of a call.
        """
        calibration = self._calibrated()
        return conformal.p_values(calibration, self(images, **options))

    def is_ood(self, images: Any, fpr: float = 0.05, **options: Any) -> np.ndarray:
        """Flags images, bool [N], at most a share `fpr` of ID images in expectation.

        With n calibration images, nothing can be flagged at an fpr below 1 / (n + 1),
        and nothing is. Errors are those of `p_value`, and for an fpr that is no rate.
        """
        limit = self.threshold(fpr)
        return self(images, **options) > limit

    def threshold(self, fpr: float = 0.05) -> float:
        """The score above which `is_ood` flags an image, see `ecood.conformal.threshold`."""
        return conformal.threshold(self._calibrated(), fpr)

    def drift(self, images: Any, **options: Any) -> conformal.Drift:
        """Whether a batch is like the calibration images, see `ecood.conformal.drift`."""
        calibration = self._calibrated()
        return conformal.drift(calibration, self(images, **options))

    def _calibrated(self) -> np.ndarray:
        if self.calibration is None:
            raise InputError(
                "this scorer is not calibrated, so it knows no thresholds and p-values; call "
                "scorer.calibrate(id_images) with in-distribution images that nothing was made "
                "from, and use the scorer that it returns."
            )
        return self.calibration
