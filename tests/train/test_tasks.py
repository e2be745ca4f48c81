import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood.encoders import Compact
from ecood.errors import InputError
from ecood.flows import Glow, PixelCNN, ResidualFlow
from ecood.train import encoder_task, flow_task
from tests import small


class Sided(nn.Module):
    """A density that tells left from right: log p is the first column less the last."""

    def log_prob(self, x, train=False):
        return jnp.sum(x[:, :, 0] - x[:, :, -1], axis=(1, 2))

    __call__ = log_prob


class NoTrain(Sided):
    def log_prob(self, x):
        return jnp.zeros(len(x))


class NoCall(nn.Module):
    def log_prob(self, x, train=False):
        return jnp.zeros(len(x))


class Listed(Sided):
    sizes: list = dataclasses.field(default_factory=lambda: [1, 2])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (NoTrain(), "NoTrain cannot be trained.*: it takes no train"),
        (NoCall(), "NoCall cannot be trained; .*, which __call__ is"),
        (Listed(), "Listed cannot be trained; .* tuples, not lists"),
        (Compact(3), "Compact cannot be trained; .* log_prob"),
        (print, "cannot be trained; expected a linen module"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(module, words):
    with pytest.raises(InputError, match=words):
        flow_task(module)


def test_the_same_module_again_is_the_same_task_and_another_has_another_name():
    module = Glow(small.SHAPE, depth=1, levels=1, width=4)
    same = Glow(small.SHAPE, depth=1, levels=1, width=4)
    wider = Glow(small.SHAPE, depth=1, levels=1, width=8)
    assert flow_task(module) is flow_task(same)
    assert encoder_task(module) is encoder_task(same)
    names = {flow_task(module).name, flow_task(module, flip=True).name, flow_task(wider).name}
    assert len(names) == 3


@pytest.mark.parametrize("flip", [False, True])
def test_a_flow_is_trained_on_bits_of_dequantised_images_mirrored_if_asked(flip):
    images = np.zeros((400, 4, 4, 1), np.uint8)
    images[:, :, 0] = 255
    loss = jax.jit(flow_task(Sided(), flip=flip).loss)
    value, changed = loss({"params": {}}, jax.random.key(0), images)
    nats = 0 if flip else 4 * 255 / 256  # mirror images cancel out; 4 rows
    assert float(value) == pytest.approx(8 - nats / (16 * np.log(2)), abs=0.05)
    assert changed == {}


def test_a_flow_is_evaluated_unmirrored_with_dequantisation_of_each_image_fixed():
    evaluate = jax.jit(flow_task(Sided(), flip=True).evaluate)
    images, key = small.images(6, shape=(4, 4, 1)), jax.random.key(0)
    bits = evaluate({"params": {}}, key, images)
    x = (images + 0.5) / 256
    expected = 8 - (x[:, :, 0] - x[:, :, -1]).sum((1, 2)) / (16 * np.log(2))
    np.testing.assert_allclose(bits, expected, atol=2 / 256)
    assert np.all(bits != expected)
    np.testing.assert_array_equal(bits[::-1], evaluate({"params": {}}, key, images[::-1]))


@pytest.mark.parametrize(
    "task",
    [
        encoder_task(Compact(3, width=8, bottleneck=4, blocks=1)),
        flow_task(Glow((8, 8, 3), depth=1, levels=1, width=4)),
        flow_task(ResidualFlow((8, 8, 3), depth=1, levels=1, width=4)),
        flow_task(PixelCNN((8, 8, 3), depth=1, levels=1, width=4)),
    ],
    ids=["compact", "glow", "residual", "pixelcnn"],
)
def test_a_step_has_no_convolution_of_xlas_own_on_a_cpu(task):
    """Its derivative is twenty times slower there, in a loop over steps."""
    images = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(task.init, key, images)
    step = jax.jit(lambda v, *batch: jax.grad(lambda v: task.loss(v, *batch)[0])(v))
    assert "stablehlo.convolution" not in step.lower(variables, key, images).as_text()


def test_under_x64_the_same_images_are_mirrored():
    images, key = small.images(40, shape=(4, 4, 1)), jax.random.key(0)
    loss = flow_task(Sided(), flip=True).loss
    without, _ = jax.jit(loss)({"params": {}}, key, images)
    with jax.enable_x64(True):
        again, _ = jax.jit(loss)({"params": {}}, key, images)
    assert float(again) == pytest.approx(float(without), rel=1e-6)
