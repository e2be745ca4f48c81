"""Where a curve over the noise is positive. On the host: what is read off is a number or None."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["positive_range", "turns_positive"]


def turns_positive(strengths: ArrayLike, values: ArrayLike) -> float | None:
    """The lambda from which on a curve stays positive, between grid points by a straight line.

    The curve ends where a density has overflown for good (NaN, under very much noise).
    A curve that is positive throughout gives 0, one that is not at its end None.
    `strengths` are lambda, rising, [L]; `values` [L] are -inf where the curve is known
    to be negative and no more.
    """
    values = np.asarray(values)
    values = values[: 1 + np.flatnonzero(~np.isnan(values)).max(initial=-1)]
    if not values.size:
        return None
    negative = np.flatnonzero(~(values > 0))
    if not negative.size:
        return 0.0
    last = negative[-1]
    if last == len(values) - 1:
        return None
    low, high = values[last], values[last + 1]
    share = -low / (high - low) if np.isfinite(low) else 1.0
    return float(strengths[last] + share * (strengths[last + 1] - strengths[last]))


def positive_range(at: ArrayLike, values: ArrayLike) -> tuple[float | None, float | None]:
    """The first and the last of the rising points `at` [L] with a positive value [L].

    Between them a value may be negative. (None, None) if none is positive.
    """
    where = np.flatnonzero(np.asarray(values) > 0)
    return (float(at[where[0]]), float(at[where[-1]])) if where.size else (None, None)
