"""How much of a score is the noise's doing: what more draws or antithetic pairs could gain."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ecood.errors import InputError

__all__ = ["ScoreVariance", "score_variance"]


class ScoreVariance(NamedTuple):
    """A score's variance, taken apart.

    Attributes:
      noise: variance of one image's score over noise keys, the mean over images.
      images: variance over images of what the score would be without noise; not below 0.
    """

    noise: float
    images: float

    @property
    def noise_share(self) -> float:
        """Of the variance of scores at one key, the part that is noise, from 0 to 1.

        For normal scores whose noise is as strong on ID as on OOD images, AUROC without noise is
        Phi(Phi^-1(AUROC) / sqrt(1 - noise_share)): small shares are not worth another draw.
        """
        total = self.noise + self.images
        return self.noise / total if total > 0 else 0.0


def score_variance(runs: ArrayLike) -> ScoreVariance:
    """Takes the variance of scores apart, by the one-way analysis of variance.

    Args:
      runs: float [R, N], the scores of the same N images at R noise keys, R and N at least 2.

    Returns:
      The two variances, both estimated without bias (but for the floor of 0).

    Raises:
      InputError: for fewer runs or images than two.
    """
    runs = np.asarray(runs, np.float64)
    if runs.ndim != 2 or min(runs.shape) < 2:
        raise InputError(
            f"runs has shape {list(runs.shape)}; expected scores [R, N] of N >= 2 images at "
            "R >= 2 noise keys."
        )
    noise = float(np.mean(np.var(runs, axis=0, ddof=1)))
    means = float(np.var(np.mean(runs, axis=0), ddof=1))
    return ScoreVariance(noise, max(means - noise / len(runs), 0.0))
