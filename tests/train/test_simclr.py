import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.encoders import Compact
from ecood.train import simclr
from tests import small

nt_xent = jax.jit(simclr.nt_xent)
DEFAULT = dataclasses.asdict(simclr.Views())
STILL = DEFAULT | {"min_area": 1.0, "max_aspect": 1.0, "max_blur": 1.0, "brightness": 0.0}
STILL |= {"contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0}


@jax.jit
def augment(keys, images, views):
    """One program for all ways to draw views."""
    return jax.vmap(lambda k, x: simclr.augment(k, x, simclr.Views(**views)))(keys, images)


def noise_images(channels, count=6, side=8):
    shape = (count, side, side, channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def unit_vectors(count, seed=0):
    z = np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_nt_xent_equals_the_papers_double_sum():
    z = unit_vectors(8).astype(float)
    total = 0.0
    for i in range(8):
        partner = (i + 4) % 8
        others = sum(np.exp(z[i] @ z[k] / 0.3) for k in range(8) if k != i)
        total -= np.log(np.exp(z[i] @ z[partner] / 0.3) / others)
    result = nt_xent(jnp.float32(z[:4]), jnp.float32(z[4:]), 0.3)
    np.testing.assert_allclose(np.mean(result), total / 8, rtol=1e-5)


def test_copies_of_an_image_do_not_repel():
    """So a padded batch gives its images the losses that they have without the padding."""
    one, other = unit_vectors(6), unit_vectors(6, seed=1)

    def losses(indices):
        copies = indices[:, None] == indices[None]
        return nt_xent(one[indices], other[indices], 0.2, copies)

    alone = losses(np.arange(6))
    padded = losses(np.array([0, 1, 2, 3, 4, 5, 5, 5, 5]))
    np.testing.assert_allclose(padded[:6], alone, rtol=1e-5)
    np.testing.assert_allclose(padded[6:], alone[5], rtol=1e-5)


class Constant(nn.Module):
    """A network that tells nothing."""

    def project(self, x):
        return jnp.broadcast_to(jnp.array([[1.0, 0.0]]), (x.shape[0], 2))


@pytest.mark.parametrize("distinct", [6, 3])
def test_the_loss_of_a_network_that_tells_nothing_counts_the_other_distinct_views(distinct):
    images = noise_images(1)[np.minimum(np.arange(6), distinct - 1)]
    value = constant_loss(jax.random.key(0), images)
    np.testing.assert_allclose(value, np.log(2 * distinct - 1), rtol=1e-5)


constant_loss = jax.jit(functools.partial(simclr.losses, Constant(), {}))


@pytest.mark.parametrize(("side", "channels", "view"), [(28, 1, 20), (32, 3, 24)])
def test_views_keep_range_and_differ_and_depend_on_key_and_image_alone(side, channels, view):
    images = noise_images(channels, side=side)
    keys = jax.random.split(jax.random.key(0), 6)
    views = augment(keys, images, DEFAULT)
    chex.assert_shape(views, (6, view, view, channels))
    assert views.dtype == jnp.float32
    assert views.min() >= 0 and views.max() <= 1
    assert float(jnp.std(views)) > 0.02
    order = np.array([2, 0, 1, 5, 4, 3])
    again = augment(keys[order], images[order], DEFAULT)
    np.testing.assert_allclose(again, views[order], atol=1e-5)
    others = augment(keys[order], images, DEFAULT)
    assert np.all(np.mean(np.abs(others - views), axis=(1, 2, 3))[[0, 1, 2, 3, 5]] > 0.02)


def test_a_view_in_which_nothing_may_change_is_the_resized_image_or_its_mirror():
    images = noise_images(1, count=1, side=28).repeat(6, axis=0)
    views = np.asarray(augment(jax.random.split(jax.random.key(0), 6), images, STILL))
    resized = np.asarray(jax.image.resize(images[0] / np.float32(255), (20, 20, 1), "linear"))
    mirrored = [np.abs(view - resized).max() > 0.05 for view in views]
    assert set(mirrored) == {False, True}
    for view, turned in zip(views, mirrored, strict=True):
        np.testing.assert_allclose(view, resized[:, ::-1] if turned else resized, atol=1e-5)


def test_colours_change_but_the_mean_of_the_channels_does_not():
    images = np.random.default_rng(1).integers(90, 160, (6, 32, 32, 3)).astype(np.uint8)
    keys = jax.random.split(jax.random.key(5), 6)
    plain, turned, grey = (
        np.asarray(augment(keys, images, STILL | changes))
        for changes in ({}, {"hue": 0.5, "saturation": 0.5}, {"grey": 1.0})
    )
    np.testing.assert_allclose(turned.mean(-1), plain.mean(-1), atol=1e-5)
    assert np.all(np.abs(turned - plain).max((1, 2, 3)) > 0.03)
    mean = plain.mean(-1, keepdims=True)
    np.testing.assert_allclose(grey, np.broadcast_to(mean, grey.shape), atol=1e-5)


def test_the_gradient_is_finite_reaches_every_parameter_of_the_encoder_and_descends():
    module = Compact(3, width=8, bottleneck=4, blocks=1, features=8, projection=4)
    first = small.images(4) / np.float32(255)
    views = np.concatenate([first, 0.8 * first])
    init = jax.jit(functools.partial(module.init, method="project"))
    variables = jax.device_get(init(jax.random.key(0), views))

    @jax.jit
    @jax.value_and_grad
    def loss(variables):
        projections = module.apply(variables, views, method="project")
        return jnp.mean(simclr.nt_xent(*jnp.split(projections, 2), 0.2))

    value, gradient = jax.device_get(loss(variables))
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    stepped = jax.tree.map(lambda v, g: v - 0.01 * g, variables, gradient)
    assert loss(stepped)[0] < value


def test_under_x64_views_are_the_same_float32():
    images = noise_images(3, side=32)[:3]
    keys = jax.random.split(jax.random.key(0), 3)
    views = augment(keys, images, DEFAULT)
    with jax.enable_x64(True):
        again = augment(keys, images, DEFAULT)
    assert again.dtype == jnp.float32
    np.testing.assert_allclose(again, views, atol=1e-5)
