"""Where a curve over the noise is positive. On the host: what is read off is a number or None."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["positive_range", "turns_positive"]


def turns_positive(strengths: ArrayLike, values: ArrayLike) -> float | None:
    """The lambda from which on a curve stays positive, between grid points by a straight line.

    The curve ends where a density has overflown for good (NaN, under very much noise).

    Args:
      strengths: lambda, rising, [L].
      values: of the curve, [L]; -inf where it is known to be negative and no more.

    Returns:
      Lambda; 0 for a curve that is positive throughout, None for one that is not at its end.
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
    """The first and the last grid point where a curve is positive; between, it may not be.

    Args:
      at: the grid, rising, [L].
      values: of the curve, [L].

    Returns:
      The two points, or (None, None) for a curve that is positive at none.
    """
    where = np.flatnonzero(np.asarray(values) > 0)
    return (float(at[where[0]]), float(at[where[-1]])) if where.size else (None, None)
