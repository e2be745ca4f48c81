"""What hypothesis draws: images, and how thoroughly."""

import functools

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

# The same examples at each run, and nothing kept on disk.
quickly = functools.partial(settings, deadline=None, derandomize=True, database=None)


@st.composite
def distinct_images(draw, at_least: int, at_most: int) -> np.ndarray:
    """uint8 [N, H, W, C], no two alike: the first pixels count them."""
    n = draw(st.integers(at_least, at_most))
    shape = draw(st.tuples(st.integers(2, 5), st.integers(1, 5), st.sampled_from([1, 3])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = rng.integers(0, 256, (n, *shape), np.uint8)
    flat = images.reshape(n, -1)
    flat[:, 0], flat[:, 1] = np.divmod(np.arange(n), 256)
    return images
