"""Numbers as sentences and files say them: with their nouns, and in few digits."""

import math

import numpy as np

__all__ = ["number_of", "short"]


def number_of(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 image", "1,234 images"; `plural` is that of "copy", say."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def short(value: float) -> float | None:
    """A float32 in the fewest digits that tell it from its neighbours; keeps their order.

    None for NaN and infinity, which JSON has not.
    """
    return float(str(np.float32(value))) if math.isfinite(value) else None
