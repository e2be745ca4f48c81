"""The plot of a drift report: are a batch's p-values uniform?"""

import pathlib

import numpy as np
from scipy import stats

from ecood.conformal import Drift, p_values
from ecood.weights import atomic_path

__all__ = ["drift", "sentence"]

BINS = 20
LEVEL = 0.01  # p-value of the drift test below which the sentence says so


def sentence(found: Drift) -> str:
    """The one number, in words."""
    verdict = "drift" if found.p_value < LEVEL else "no sign of drift"
    return (
        f"{verdict}: {found.n} images, Kolmogorov-Smirnov statistic {found.statistic:.3f}, "
        f"p = {found.p_value:.2g}"
    )


def drift(path: pathlib.Path, calibration: np.ndarray, scores: np.ndarray, found: Drift) -> None:
    """Writes a PNG: the histogram of the batch's p-values, and their distribution function.

    The grey band holds 95% of the bins of a batch that has not drifted, with the chance in the
    calibration set counted in.

    Args:
      path: the file.
      calibration: float [n], the calibration scores.
      scores: float [N], the batch's.
      found: what `ecood.conformal.drift` says of them.
    """
    import matplotlib.figure

    batch = p_values(calibration, scores)
    n, size = len(calibration), len(batch)
    share = 1 / BINS
    # The share of a bin is a batch's share of it plus the calibration set's error.
    error = np.sqrt(share * (1 - share) * (1 / size + 1 / n)) * BINS * stats.norm.isf(0.025)
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    histogram, steps = figure.subplots(1, 2)
    histogram.axhspan(max(0, 1 - error), 1 + error, color="0.9")
    histogram.hist(batch, np.linspace(0, 1, BINS + 1), density=True, color="#3b6fb6", alpha=0.8)
    histogram.axhline(1, color="black", lw=1)
    histogram.set(xlabel="p-value", ylabel="density", xlim=(0, 1), title="small = OOD")
    steps.plot([0, 1], [0, 1], color="black", lw=1)
    steps.ecdf(batch, color="#3b6fb6")
    steps.set(xlabel="p-value", ylabel="share of images up to it", xlim=(0, 1), ylim=(0, 1))
    steps.set_title(f"distance {found.statistic:.3f}, p = {found.p_value:.2g}")
    figure.suptitle(sentence(found))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
