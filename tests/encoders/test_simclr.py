import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.encoders import Compact, simclr


def noise_images(channels, count=6, side=28):
    shape = (count, side, side, channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_nt_xent_equals_the_papers_double_sum():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(8, 5))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(8):
        partner = (i + 4) % 8
        others = sum(np.exp(z[i] @ z[k] / 0.3) for k in range(8) if k != i)
        total -= np.log(np.exp(z[i] @ z[partner] / 0.3) / others)
    result = simclr.nt_xent(jnp.float32(z[:4]), jnp.float32(z[4:]), 0.3)
    np.testing.assert_allclose(np.mean(result), total / 8, rtol=1e-5)


def test_copies_of_an_image_do_not_repel():
    """So a padded batch gives its images the losses that they have without the padding."""
    module = Compact(channels=1, width=16, bottleneck=8, blocks=1, features=16, projection=8)
    images = noise_images(1, side=8)
    variables = module.init(jax.random.key(0), images / np.float32(255), method="project")

    def views_of(indices):
        """Projections of views that depend on the image alone, and which images are copies."""
        first, second = (
            module.apply(variables, shifted[indices], method="project")
            for shifted in (images / np.float32(255), images / np.float32(300))
        )
        return first, second, 0.2, indices[:, None] == indices[None]

    alone = simclr.nt_xent(*views_of(np.arange(6)))
    padded = simclr.nt_xent(*views_of(np.array([0, 1, 2, 3, 4, 5, 5, 5, 5])))
    np.testing.assert_allclose(padded[:6], alone, rtol=1e-5)
    np.testing.assert_allclose(padded[6:], alone[5], rtol=1e-5)


def test_the_loss_knows_copies_by_their_pixels():
    class Constant(nn.Module):
        def project(self, x):
            return jnp.broadcast_to(jnp.array([[1.0, 0.0]]), (x.shape[0], 2))

    images = noise_images(1)[[0, 1, 2, 2, 2]]
    value = simclr.losses(Constant(), {}, jax.random.key(0), images)
    np.testing.assert_allclose(value, np.log(5), rtol=1e-5)  # three images, 2 x 3 - 1 other views


def test_loss_of_a_network_that_tells_nothing_is_the_log_of_the_number_of_other_views():
    class Constant(nn.Module):
        def project(self, x):
            return jnp.broadcast_to(jnp.array([[1.0, 0.0]]), (x.shape[0], 2))

    value = simclr.losses(Constant(), {}, jax.random.key(0), noise_images(1))
    np.testing.assert_allclose(value, np.log(11), rtol=1e-5)


@pytest.mark.parametrize(("side", "channels", "view"), [(28, 1, 20), (32, 3, 24)])
def test_views_keep_range_and_differ_and_are_reproducible(side, channels, view):
    images = noise_images(channels, side=side)
    keys = jax.random.split(jax.random.key(0), 6)
    views = jax.jit(jax.vmap(simclr.augment))(keys, images)
    chex.assert_shape(views, (6, view, view, channels))
    assert views.dtype == jnp.float32
    assert views.min() >= 0 and views.max() <= 1
    assert float(jnp.std(views)) > 0.02
    again = simclr.augment(keys[2], images[2])
    np.testing.assert_allclose(views[2], again, atol=1e-5)
    other = simclr.augment(keys[3], images[2])
    assert float(jnp.mean(jnp.abs(other - again))) > 0.02


def unchanged(**changes):
    still = {"min_area": 1.0, "max_aspect": 1.0, "max_blur": 1.0, "brightness": 0.0}
    still |= {"contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0}
    return simclr.Views(**(still | changes))


def test_a_view_in_which_nothing_may_change_is_the_resized_image_or_its_mirror():
    image = noise_images(1)[0]
    resized = jax.image.resize(image / np.float32(255), (20, 20, 1), "linear")
    seen = set()
    for seed in range(8):
        view = simclr.augment(jax.random.key(seed), image, unchanged())
        mirrored = bool(jnp.abs(view - resized).max() > 0.05)
        seen.add(mirrored)
        expected = resized[:, ::-1] if mirrored else resized
        np.testing.assert_allclose(view, expected, atol=1e-5)
    assert seen == {False, True}


def test_colours_change_but_the_mean_of_the_channels_does_not():
    image = np.random.default_rng(1).integers(90, 160, (32, 32, 3)).astype(np.uint8)
    key = jax.random.key(5)
    plain = simclr.augment(key, image, unchanged())
    turned = simclr.augment(key, image, unchanged(hue=0.5, saturation=0.5))
    grey = simclr.augment(key, image, unchanged(grey=1.0))
    np.testing.assert_allclose(turned.mean(-1), plain.mean(-1), atol=1e-5)
    assert float(jnp.abs(turned - plain).max()) > 0.05
    np.testing.assert_allclose(
        grey, jnp.broadcast_to(plain.mean(-1, keepdims=True), grey.shape), atol=1e-5
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_gradient_is_finite_reaches_every_parameter_and_descends(channels):
    module = Compact(channels, width=16, bottleneck=8, blocks=2, features=8, projection=4)
    images = noise_images(channels)
    init = jax.jit(functools.partial(module.init, method="project"))
    variables = init(jax.random.key(0), jnp.zeros((1, 28, 28, channels)))

    @jax.jit
    def value_and_gradient(variables):
        def value(variables):
            return simclr.losses(module, variables, jax.random.key(1), images).mean()

        return jax.value_and_grad(value)(variables)

    loss, gradient = value_and_gradient(variables)
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert float(jnp.abs(leaf).max()) > 0, jax.tree_util.keystr(path)
    variables, gradient = jax.device_get((variables, gradient))
    stepped = jax.tree.map(lambda v, g: v - 0.01 * g, variables, gradient)
    assert float(value_and_gradient(stepped)[0]) < float(loss)
