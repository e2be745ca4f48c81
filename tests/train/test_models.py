import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import encoders, flows, splits, train
from ecood.errors import InputError
from ecood.train import TrainConfig, fit_encoder, fit_flow
from tests import small

SHAPE = (8, 8, 1)
IMAGES = small.images(200, shape=SHAPE)
SPLIT = splits.draw(IMAGES, seed=3)
CONFIG = TrainConfig(steps=50, batch_size=16, warmup=10, eval_every=25, learning_rate=0.05)


class Gaussian(nn.Module):
    """A flow that compiles in no time."""

    image_shape: tuple[int, int, int] = SHAPE

    @nn.compact
    def __call__(self, x):
        mean = self.param("mean", nn.initializers.constant(0.5), self.image_shape)
        scale = jnp.exp(self.param("log_scale", nn.initializers.zeros, self.image_shape))
        nats = 0.5 * ((x - mean[None]) / scale[None]) ** 2 + jnp.log(scale * math.tau**0.5)[None]
        return -jnp.sum(nats, axis=(1, 2, 3))

    def log_prob(self, x, train=False):
        return self(x)


class Linear(nn.Module):
    """An encoder likewise; `project` sees views, which are 4 x 4 pixels, and calls see images."""

    def setup(self):
        self.trunk, self.head = nn.Dense(4), nn.Dense(3)

    def __call__(self, images):
        return self.trunk(jnp.mean(images / 255.0, axis=(1, 2)))

    def project(self, x):
        projected = self.head(self.trunk(jnp.mean(x, axis=(1, 2))))
        return projected / jnp.linalg.norm(projected, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def trained():
    return fit_flow(Gaussian(), SPLIT, CONFIG)


def test_training_lowers_the_held_out_bits_of_a_flow(trained):
    flow, fitted = trained
    assert fitted.log[-1]["held_out"] < fitted.log[0]["held_out"] < 9
    assert flow.image_shape == SHAPE
    bits = flows.bits_per_dim(flow.log_prob(jax.random.key(0), (SPLIT.held_out + 0.5) / 256), SHAPE)
    assert np.mean(bits) == pytest.approx(fitted.held_out, abs=0.01)


def test_a_flow_remembers_the_training_images_alone(trained):
    known = [splits.count_known(part, trained[0].trained_on) for part in SPLIT]
    assert known == [len(SPLIT.train), 0, 0]


def test_images_are_split_as_everywhere():
    """And what a split's third part holds makes no difference to training."""
    flow, _ = fit_flow(Gaussian(), IMAGES, CONFIG)
    expected = splits.as_split(IMAGES)
    assert splits.count_known(expected.train, flow.trained_on) == len(expected.train)
    third = expected._replace(calibration=small.images(3, 9, SHAPE))
    other, _ = fit_flow(Gaussian(), third, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, flow, other)


def test_an_encoder_remembers_too_and_leaves_its_head_behind(monkeypatch):
    monkeypatch.setattr(encoders, "Compact", lambda channels: Linear())
    encoder, fitted = fit_encoder(SPLIT, CONFIG)
    assert fitted.log[-1]["loss"] < fitted.log[0]["loss"]
    assert set(fitted.variables["params"]) == {"trunk", "head"}
    assert set(encoder.variables["params"]) == {"trunk"}
    assert encoder.embed(SPLIT.held_out).shape == (10, 4)
    known = [splits.count_known(part, encoder.trained_on) for part in SPLIT]
    assert known == [len(SPLIT.train), 0, 0]


ONE_SHARED = SPLIT._replace(held_out=np.concatenate([SPLIT.held_out, SPLIT.train[:1]]))


@pytest.mark.parametrize("fit", [lambda *rest: fit_flow(Gaussian(), *rest), fit_encoder])
@pytest.mark.parametrize(
    ("images", "words"),
    [
        (ONE_SHARED, "the held_out part shares 1 image of 11 with the train part"),
        (
            SPLIT._replace(calibration=SPLIT.train),
            r"calibration part shares (\d+) images of \1 with the train part",
        ),
        (IMAGES / np.float32(255), "images is float32"),
        (IMAGES[..., 0], r"images has shape \[200, 8, 8\]"),
        (IMAGES[:20], "19 training examples are given and the batch size is 64"),
    ],
)
def test_what_nothing_can_be_trained_on_is_refused_and_claims_no_folder(
    tmp_path, fit, images, words
):
    with pytest.raises(InputError, match=words):
        fit(images, TrainConfig(steps=25), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_of_another_shape_are_refused(tmp_path):
    wide = small.images(40, shape=(16, 16, 1))
    with pytest.raises(InputError, match=r"this model expects uint8 \[N, 8, 8, 1\]"):
        fit_flow(Gaussian(), wide, CONFIG, tmp_path / "run")
    with pytest.raises(InputError, match="6 x 8 pixels; the compact encoder needs multiples of 4"):
        fit_encoder(IMAGES[:, :6], CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_encoders_settings_are_those_of_any_run():
    config = train.encoder_config(1000, minutes=2.0, seed=4)
    assert (config.batch_size, config.minutes, config.seed) == (256, 2.0, 4)
    assert train.encoder_config(100, steps=10, batch_size=8).batch_size == 8
    with pytest.raises(InputError, match="either steps or minutes"):
        train.encoder_config(1000)


@pytest.mark.parametrize(
    ("sides", "expected"), [((32, 32), 3), ((28, 28), 2), ((8, 6), 1), ((64, 48), 3), ((36, 8), 2)]
)
def test_levels_are_as_many_as_the_sides_allow(sides, expected):
    assert train.levels((*sides, 3)) == expected


@pytest.mark.parametrize(("side", "expected"), [(28, 3), (30, 2), (29, 1)])
def test_the_first_level_of_a_pixelcnn_halves_nothing(side, expected):
    assert train.flow_module("PixelCNN", (side, side, 3)).levels == expected


@pytest.mark.parametrize("sides", [(27, 32), (32, 9)])
def test_odd_sides_are_refused(sides):
    with pytest.raises(InputError, match="flows need even sides"):
        train.levels((*sides, 3))


@pytest.mark.parametrize(
    ("count", "devices", "expected"), [(1000, 1, 64), (38, 1, 38), (38, 8, 32), (3, 8, 8)]
)
def test_a_batch_is_no_larger_than_the_training_set_and_devices_share_it(
    monkeypatch, count, devices, expected
):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert train.batch_size(count) == expected


@pytest.mark.parametrize(("platform", "expected"), [("cpu", 16), ("gpu", 64), ("tpu", 64)])
def test_a_cpu_trains_flows_in_small_batches(monkeypatch, platform, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert train.flow_batch_size(1000) == expected and train.flow_batch_size(9) == 9


class Shallow(nn.Module):
    """A flow that has one of the options of another."""

    image_shape: tuple[int, int, int]
    width: int = 3


def test_a_flow_is_given_the_options_that_it_has_attributes_for(monkeypatch):
    monkeypatch.setitem(flows.MODULES, "Shallow", Shallow)
    odd = (7, 7, 1)  # no number of levels fits
    assert train.flow_module("Shallow", odd) == Shallow(odd)
    assert train.flow_module("Shallow", odd, width=5) == Shallow(odd, width=5)
    for option, value in (("depth", 3), ("levels", 1), ("dtype", "bfloat16")):
        with pytest.raises(InputError, match=f"Shallow has no attribute {option}; .* out or"):
            train.flow_module("Shallow", odd, **{option: value})
    made = train.flow_module("Glow", (12, 8, 1), dtype="bfloat16")
    assert made.levels == 2 and made.dtype == jnp.bfloat16
