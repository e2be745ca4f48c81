"""The geometry of a page's charts; the template draws them as SVG."""

from typing import NamedTuple

import numpy as np

__all__ = ["BLOCKS", "HEIGHT", "WIDTH", "Block", "Histogram", "TimeLine", "histogram", "time_line"]

WIDTH, HEIGHT = 600, 200  # of the plot, in SVG units
BINS = 40
BLOCKS = 60  # along the order of images, of at least `FEWEST` each
FEWEST = 5


class Histogram(NamedTuple):
    """Shares of scores, as SVG paths over [0, WIDTH] x [0, HEIGHT].

    `low` and `high` are the scores at the ends; what is beyond is counted in the last bins. `ticks`
    are (x, score).
    """

    low: float
    high: float
    images: str
    calibration: str
    ticks: list[tuple[float, float]]


class Block(NamedTuple):
    """Images `first` to `last`, from 1, and the heights of their 10th, 50th and 90th percentile."""

    first: int
    last: int
    x: float
    low: float
    middle: float
    high: float
    score: float  # the median


class TimeLine(NamedTuple):
    """Blocks in the order of images, and the same three heights of the calibration images."""

    blocks: list[Block]
    calibration: tuple[float, float, float]
    ticks: list[tuple[float, float]]  # (y, score)


def histogram(scores: np.ndarray, calibration: np.ndarray) -> Histogram:
    """Of the scores [N] of images, and of the calibration's [n]."""
    scores, calibration = np.float64(scores), np.float64(calibration)
    low, high = _range(scores, calibration)
    edges = np.linspace(low, high, BINS + 1)
    shares = [
        np.histogram(np.clip(each, low, high), edges)[0] / len(each)
        for each in (scores, calibration)
    ]
    top = max(share.max() for share in shares)
    images, known = (_steps(HEIGHT * (1 - share / top)) for share in shares)
    ticks = [((tick - low) / (high - low) * WIDTH, tick) for tick in _ticks(low, high)]
    return Histogram(low, high, images, known, ticks)


def time_line(scores: np.ndarray, calibration: np.ndarray) -> TimeLine:
    """Of the scores [N] of images in their order, and of the calibration's [n]."""
    # The largest float32s, which a diverged flow gives, have no sum in float32.
    scores, calibration = np.float64(scores), np.float64(calibration)
    low, high = _range(scores, calibration)

    def heights(values: np.ndarray) -> tuple[float, float, float]:
        at = np.clip(np.quantile(values, [0.1, 0.5, 0.9]), low, high)
        return tuple(((high - at) / (high - low) * HEIGHT).tolist())

    count = min(BLOCKS, max(1, len(scores) // FEWEST))
    blocks, start = [], 0
    for number, part in enumerate(np.array_split(scores, count)):
        x = (number + 0.5) / count * WIDTH
        median = float(np.median(part))
        blocks.append(Block(start + 1, start + len(part), x, *heights(part), median))
        start += len(part)
    ticks = [((high - tick) / (high - low) * HEIGHT, tick) for tick in _ticks(low, high)]
    return TimeLine(blocks, heights(calibration), ticks)


def _range(scores: np.ndarray, calibration: np.ndarray) -> tuple[float, float]:
    """Nearly all of both; a few far scores would else press the rest together."""
    ends = [np.quantile(each, [0.005, 0.98]) for each in (scores, calibration)]
    low, high = min(ends[0][0], ends[1][0]), max(ends[0][1], ends[1][1])
    margin = 0.02 * (high - low) or max(1.0, abs(high) / 100)
    return float(low - margin), float(high + margin)


def _steps(heights: np.ndarray) -> str:
    """A closed outline of bars of equal width."""
    x = np.linspace(0, WIDTH, len(heights) + 1)
    steps = "".join(f"V{y:.1f}H{right:.1f}" for y, right in zip(heights, x[1:], strict=True))
    return f"M0 {HEIGHT}{steps}V{HEIGHT}Z"


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers in between."""
    step = 10 ** np.floor(np.log10((high - low) / 3))
    step *= max(factor for factor in (1, 2, 5) if factor * step <= (high - low) / 3)
    return [float(tick) + 0.0 for tick in np.arange(np.ceil(low / step), high / step) * step]
