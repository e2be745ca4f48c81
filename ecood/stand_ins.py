"""Stand-ins for out-of-distribution images, made of in-distribution images alone.

Settings are chosen on them, so that no OOD image has a part in any setting.
"""

import numpy as np

__all__ = ["turned"]


def turned(images: np.ndarray) -> np.ndarray:
    """The images turned by a quarter, or by a half if they are not square.

    What a turn leaves as it was: colours, contrast, complexity, and so, nearly, the likelihood.
    What it changes: what the image shows.
    """
    square = images.shape[1] == images.shape[2]
    return np.ascontiguousarray(np.rot90(images, 1 if square else 2, axes=(1, 2)))
