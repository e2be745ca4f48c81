"""Contrastive learning: two views of one image attract, all others repel.

Crop, mirror, resizing and blur are one linear map along each axis, so that augmenting a
batch is two small matrix products an image, inside the compiled training step. `losses`
takes any linen module with the method `project`.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.images import content_hash

__all__ = ["Views", "augment", "losses", "nt_xent"]


@dataclasses.dataclass(frozen=True)
class Views:
    """How a view is drawn; saturation, hue and grey are of RGB images."""

    min_area: float = 0.3  # a crop's smallest share of the area; the largest is 1
    max_aspect: float = 4 / 3  # of a crop's sides, before it is resized
    max_blur: float = 2.0  # half of the views: kernel wider than linear by up to this
    brightness: float = 0.4  # the mean is scaled by 1 ± up to this
    contrast: float = 0.4  # the deviations from the mean likewise
    saturation: float = 0.4  # colours likewise
    hue: float = 0.1  # colours turn by up to this share of the circle, either way
    grey: float = 0.2  # share of views that lose their colour
    temperature: float = 0.2  # of the loss


def view_size(size: int) -> int:
    """A view's side: about 5/7 of the image's, a multiple of four.

    So a step costs half, and objects look no larger than in the images embedded later.

    Source: Touvron et al. 2019, "Fixing the train-test resolution discrepancy".
    """
    return max(4, 4 * round(size * 5 / 28))


def augment(key: jax.Array, image: jax.Array, views: Views = Views()) -> jax.Array:
    """One view of an image: uint8 [H, W, C] -> float32 [h, w, C] in [0, 1].

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual
    representations", appendix A; the crop as in Szegedy et al. 2015. Sides are as of
    `view_size`.
    """
    geometry, blur, colour, light = jax.random.split(key, 4)
    x = _resample(geometry, blur, image.astype(jnp.float32) / 255, views)
    if image.shape[-1] == 3:
        x = x @ _colour_matrix(colour, views)
    brightness, contrast = 1 + jax.random.uniform(light, (2,), jnp.float32, -1) * jnp.float32(
        [views.brightness, views.contrast]
    )
    mean = jnp.mean(x)
    return jnp.clip((x - mean) * contrast + mean * brightness, 0, 1)


def _resample(geometry: jax.Array, blur: jax.Array, x: jax.Array, views: Views) -> jax.Array:
    u = jax.random.uniform(geometry, (5,), jnp.float32)
    area = views.min_area + (1 - views.min_area) * u[0]
    stretch = views.max_aspect ** (u[1] - 0.5)
    height, width = jnp.minimum(1, jnp.sqrt(area) * jnp.stack([stretch, 1 / stretch]))
    b = jax.random.uniform(blur, (2,), jnp.float32)
    radius = jnp.where(b[0] < 0.5, 1.0, 1 + (views.max_blur - 1) * b[1])
    rows = _axis_weights(x.shape[0], u[2] * (1 - height), height, radius)
    columns = _axis_weights(x.shape[1], u[3] * (1 - width), width, radius)
    columns = jnp.where(u[4] < 0.5, columns[::-1], columns)  # a mirror
    return jnp.einsum("oh,pw,hwc->opc", rows, columns, x)


def _axis_weights(size: int, start: jax.Array, extent: jax.Array, radius: jax.Array) -> jax.Array:
    """[view_size, size], rows of sum 1: triangles about the samples of [start, start + extent]."""
    out = view_size(size)
    centres = (start + extent * (jnp.arange(out, dtype=jnp.float32) + 0.5) / out) * size - 0.5
    distance = jnp.abs(centres[:, None] - jnp.arange(size)[None, :])
    weights = jnp.maximum(0, 1 - distance / (radius * jnp.maximum(1, extent * size / out)))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _colour_matrix(key: jax.Array, views: Views) -> jax.Array:
    """[3, 3]: keeps the mean of the channels; turns and scales the rest of the colour space."""
    u = jax.random.uniform(key, (3,), jnp.float32)
    saturation = 1 + views.saturation * (2 * u[0] - 1)
    saturation = jnp.where(u[1] < views.grey, 0.0, saturation)
    angle = 2 * jnp.pi * views.hue * (2 * u[2] - 1)
    onto_grey = jnp.full((3, 3), 1 / 3, jnp.float32)
    quarter_turn = jnp.float32([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turned = (
        jnp.cos(angle) * (jnp.eye(3, dtype=jnp.float32) - onto_grey) + jnp.sin(angle) * quarter_turn
    )
    return onto_grey + saturation * turned


def nt_xent(
    first: jax.Array, second: jax.Array, temperature: float, copies: jax.Array | None = None
) -> jax.Array:
    """The normalised temperature-scaled cross-entropy of 2B views, nats [B].

    -log [exp(<a, a'>/t) / sum over the 2B - 1 views b other than a of exp(<a, b>/t)],
    averaged over an image's two views a, where a' is the other view of a's image.
    `first` and `second`, [B, d], unit norm, hold the two views, and t is the
    temperature. `copies`, bool [B, B], tells which images are copies of one another:
    they do not repel, and repel the others as one image does; none if None.

    Source: Chen et al. 2020, equation 1.
    """
    views = jnp.concatenate([first, second])
    logits = jnp.where(jnp.eye(len(views), dtype=bool), -jnp.inf, views @ views.T / temperature)
    if copies is not None:
        itself = jnp.eye(len(first), dtype=bool)
        again = jnp.argmax(copies, axis=1) < jnp.arange(len(first))  # a copy of one before
        left_out = (copies | again[None]) & ~itself
        logits = jnp.where(jnp.tile(left_out, (2, 2)), -jnp.inf, logits)
    repulsion = jnp.mean(jax.nn.logsumexp(logits, axis=1).reshape(2, -1), axis=0)
    return repulsion - jnp.sum(first * second, axis=-1) / temperature


def losses(module: nn.Module, variables: Any, key: jax.Array, images: jax.Array) -> jax.Array:
    """The contrastive loss of each image, nats [B]; its mean is to be minimised.

    It is log(2B - 1) for a network that tells nothing, if no image is there twice. Two
    views of each of the images, uint8 [B, H, W, C], C = 1 or 3, are drawn by the key;
    `module.apply(variables, views, method="project")` maps them, float32 [B, h, w, C]
    in [0, 1], to unit-norm projections [B, p].
    """
    keys = jax.random.split(key, (2, len(images)))
    draw = jax.vmap(jax.vmap(augment), in_axes=(0, None))
    both = draw(keys, images)
    projections = module.apply(variables, both.reshape(-1, *both.shape[2:]), method="project")
    first, second = jnp.split(projections, 2)
    words = content_hash(images)
    copies = jnp.all(words[:, None] == words[None], axis=-1)
    return nt_xent(first, second, Views().temperature, copies)
