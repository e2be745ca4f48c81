"""Fits the constants of the universal code (`ecood.code_length.CONSTANTS`).

The images are scikit-learn's two sample photographs, cut and scaled down, and shapes drawn here:
grey, anti-aliased, on an empty ground, some filled with a photograph. No data set is read.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image, ImageDraw

from ecood.code_length import Constants, pixel_code_lengths
from ecood.errors import InputError

__all__ = ["fit_constants", "photographs", "shape"]

SIDE = 32
START = Constants(
    trust=np.ones(6),
    error=np.array([2, 2, 1, 1, 1, 1]),
    error_prior=2.0,
    regression=np.array([2, 2, 1, 1, 1, 1, 0.3, 0.3, 0.3, 0.3]),
    slope=np.array([0.5, 0.2, 0.5]),
    slope_prior=20.0,
    activity=np.array([2, 2, 1, 1, 1, 1, 0.3, 0.3, 0.3, 0.3]) / 15,
    gradient=0.1,
    disagreement=0.1,
    channel=0.3,
    least_scale=0.2,
    widths=np.array([0.25, 1.0, 3.0]),
    prior=np.full((2, 5), 0.2),
    explained=np.array([1, 1, 0.5, 0.5]),
    channel_explained=0.5,
)


def photographs(rng: np.random.Generator) -> np.ndarray:
    """Squares cut from photographs at six scales, uint8 [N, 32, 32, 3]."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise InputError(
            "the photographs are scikit-learn's, which is not installed; install it with "
            'pip install "ecood[baselines]".'
        ) from None
    found, samples = [], load_sample_images().images
    for factor, count in ((2, 60), (3, 60), (4, 60), (5, 50), (6, 40), (8, 24)):
        for photograph in samples:
            height, width = (length // factor for length in photograph.shape[:2])
            scaling = Image.Resampling.BOX if factor % 2 else Image.Resampling.LANCZOS
            scaled = np.asarray(Image.fromarray(photograph).resize((width, height), scaling))
            for _ in range(count):
                top, left = rng.integers(0, height - SIDE + 1), rng.integers(0, width - SIDE + 1)
                square = scaled[top : top + SIDE, left : left + SIDE]
                if rng.random() < 0.3:  # as images that were scaled up are
                    half = Image.fromarray(square).resize((SIDE // 2,) * 2, Image.Resampling.BOX)
                    square = np.asarray(half.resize((SIDE,) * 2, Image.Resampling.BICUBIC))
                found.append(np.rot90(square, rng.integers(4)))
    return np.stack(found)


def shape(rng: np.random.Generator, fine: int = 4) -> np.ndarray:
    """One to three lines, ellipses or polygons, anti-aliased: uint8 [32, 32]."""
    image = Image.new("L", (SIDE * fine, SIDE * fine))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 4)):
        points = rng.integers(3 * fine, (SIDE - 3) * fine, size=(4, 2))
        width, kind = int(rng.integers(2 * fine, 4 * fine)), rng.integers(3)
        if kind == 0:
            pen.line(points.flatten().tolist(), fill=255, width=width, joint="curve")
        elif kind == 1:
            box = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
            pen.ellipse(box, outline=255, width=width)
        elif rng.random() < 0.4:
            pen.polygon(points.flatten().tolist(), fill=int(rng.integers(100, 255)))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def fit_constants(steps: int, show: Callable[[int, np.ndarray], None]) -> Constants:
    """Fitted by so many steps of Adam on the mean bits/dim of three kinds of images, rounded.

    `show` is called with each step and the bits/dim of the kinds, [3], before it.
    """
    rng = np.random.default_rng(0)
    photos = photographs(rng)
    drawn = np.stack([shape(rng) for _ in range(300)])[..., None]
    grey = photos.mean(axis=-1).astype(np.uint8)[rng.integers(len(photos), size=300), ..., None]
    kinds = photos, drawn, np.where(drawn > 0, grey, 0).astype(np.uint8)

    optimiser = optax.adam(optax.cosine_decay_schedule(0.03, steps))

    @jax.jit
    def step(logs, state, batches):
        def loss(logs):
            each = [jnp.mean(pixel_code_lengths(x, jax.tree.map(jnp.exp, logs))) for x in batches]
            return sum(each), jnp.stack(each)

        (_, each), slope = jax.value_and_grad(loss, has_aux=True)(logs)
        change, state = optimiser.update(slope, state)
        return optax.apply_updates(logs, change), state, each

    logs = jax.tree.map(lambda x: jnp.log(jnp.float32(x)), START)
    state = optimiser.init(logs)
    for index in range(steps):
        batches = [x[rng.integers(len(x), size=12)] for x in kinds]
        logs, state, each = step(logs, state, batches)
        show(index, np.asarray(each))
    return jax.tree.map(lambda x: np.round(np.asarray(jnp.exp(x), np.float64), 4), logs)
