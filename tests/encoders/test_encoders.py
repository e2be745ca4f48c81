"""What every encoder keeps: one table, one line an encoder."""

import functools
import hashlib
import re
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import encoders, models, weights
from ecood.encoders import Encoder
from ecood.encoders.dinov2 import DINOv2
from ecood.encoders.efficientnet import EfficientNetLite0
from ecood.encoders.resnet import ResNet
from ecood.errors import InputError
from ecood.splits import remember
from tests import small


def filled(template, seed=0):
    """Random variables: what is tested here does not depend on trained ones."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if path[-1].key in ("bias", "running_mean"):
            values = rng.normal(0, 0.1, leaf.shape)
        elif len(leaf.shape) < 2:
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, template)


def initialised(module, name):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    template = jax.eval_shape(module.init, jax.random.key(0), images)
    return encoders.encoder(module, filled(template), name=name)


def compact(channels):
    module = encoders.Compact(channels, width=32, bottleneck=16, blocks=2)
    pixels = jax.ShapeDtypeStruct((1, 28, 28, channels), jnp.float32)
    init = functools.partial(module.init, method="project")
    return encoders.compact(module, filled(jax.eval_shape(init, jax.random.key(0), pixels)))


def random_features(channels):
    return encoders.random_features(jax.random.key(0), channels)


def tiny_resnet():
    return initialised(ResNet(depths=(1, 1), widths=(8, 16), stem=8, size=32), "resnet")


ENCODERS = {
    "compact-grey": lambda: compact(1),
    "compact-rgb": lambda: compact(3),
    "dinov2-grey": lambda: initialised(DINOv2(width=32, depth=2, heads=2, size=28), "dinov2"),
    "efficientnet-grey": lambda: initialised(EfficientNetLite0(32), "efficientnet"),
    "pixels-rgb": encoders.pixels,
    "random_features-grey": lambda: random_features(1),
    "random_features-rgb": lambda: random_features(3),
    "resnet-grey": tiny_resnet,
    "resnet-rgb": tiny_resnet,
    "function-rgb": lambda: encoders.encoder(lambda x: x.mean((1, 2)) / 255, name="own"),
}


class Case(NamedTuple):
    """An encoder, five images for it, and what it says of them, compiled."""

    name: str
    encoder: Encoder
    images: np.ndarray
    said: np.ndarray

    @property
    def scale(self):
        return float(np.abs(self.said).max())


RUN = jax.jit(Encoder.embed)


@pytest.fixture(scope="module", params=ENCODERS)
def case(request):
    side, channels = (28, 1) if request.param.endswith("grey") else (32, 3)
    images = np.random.default_rng(0).integers(0, 256, (5, side, side, channels)).astype(np.uint8)
    encoder = ENCODERS[request.param]()
    return Case(request.param, encoder, images, np.asarray(RUN(encoder, images)))


def test_embeddings_have_the_shape_and_type_and_depend_on_the_image_alone(case):
    chex.assert_shape(case.said, (5, None))
    assert case.said.dtype == jnp.float32
    chex.assert_tree_all_finite(case.said)
    backwards = RUN(case.encoder, case.images[::-1])
    np.testing.assert_allclose(backwards[::-1], case.said, rtol=0, atol=1e-5 * case.scale)
    others = np.roll(255 - case.images, 1, axis=0)
    others[2] = case.images[2]
    among = RUN(case.encoder, others)
    np.testing.assert_allclose(among[2], case.said[2], rtol=0, atol=1e-5 * case.scale)
    assert float(jnp.std(case.said, axis=0).max()) > 1e-3 * case.scale  # images are told apart


@pytest.mark.slow
def test_compiling_changes_nothing_but_rounding(case):
    if case.name in ("efficientnet-grey", "resnet-rgb", "compact-rgb", "random_features-rgb"):
        pytest.skip("operations compile one by one: one of a kind, and not one of hundreds")
    plain = case.encoder.embed(case.images)
    np.testing.assert_allclose(plain, case.said, rtol=0, atol=1e-4 * case.scale)


def test_grey_images_are_rgb_images_with_equal_channels():
    encoder = tiny_resnet()
    grey = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1)).astype(np.uint8)
    rgb = RUN(encoder, np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(RUN(encoder, grey), rgb, rtol=1e-5, atol=1e-6)


def test_one_export_serves_all_platforms_and_any_batch(case):
    shape = jax.export.symbolic_shape("b, " + ", ".join(map(str, case.images.shape[1:])))
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    platforms = ("cpu", "cuda", "tpu")
    program = jax.export.export(jax.jit(lambda v, x: embed(case, v, x)), platforms=platforms)(
        case.encoder.variables, images
    )
    program = jax.export.deserialize(program.serialize())
    found = program.call(case.encoder.variables, case.images[:3])
    np.testing.assert_allclose(found, case.said[:3], rtol=0, atol=1e-4 * case.scale)


def embed(case, variables, images):
    return case.encoder.replace(variables=variables).embed(images)


def test_saving_and_loading_keeps_the_identity_and_the_compiled_program(case, tmp_path):
    path, encoder = tmp_path / "encoder.safetensors", case.encoder
    if models.describe(encoder.function, encoders.MODULES.values()) is None:
        with pytest.raises(InputError, match="own function or module, which no file can hold"):
            encoders.save(path, encoder)
        assert list(tmp_path.iterdir()) == []
        return
    encoders.save(path, encoder, {"command": "test"})
    loaded = encoders.load(path)
    assert loaded.name == encoder.name and loaded.function == encoder.function
    assert encoders.identity(loaded) == encoders.identity(encoder)
    chex.assert_trees_all_equal(loaded.variables, encoder.variables)
    with small.programs() as made:
        np.testing.assert_array_equal(RUN(loaded, case.images), case.said)
    assert made == []
    assert weights.load(path)[1]["command"] == "test"


def test_an_encoders_leaves_are_its_variables_and_the_images_that_it_remembers():
    encoder = small.encoder()
    assert [leaf.shape for leaf in jax.tree.leaves(encoder)] == [(5, 5, 3, 128)]
    known = encoder.replace(trained_on=remember(small.images(1)))
    assert len(jax.tree.leaves(known)) == 2
    assert encoders.identity(known) == encoders.identity(encoder)
    assert jax.tree.leaves(encoders.encoder(lambda x: x)) == []


def test_controls_are_known_to_be_trained_on_nothing_and_functions_are_not():
    for encoder in (encoders.pixels(), random_features(1)):
        assert encoder.trained_on.shape == (0, 2)
    assert encoders.encoder(lambda x: x).trained_on is None


def test_two_encoders_of_one_function_share_its_program():
    def mine(images):
        return images.reshape(images.shape[0], -1) / 255

    images = np.zeros((2, 4, 4, 1), np.uint8)
    RUN(encoders.encoder(mine), images)
    with small.programs() as made:
        RUN(encoders.encoder(mine), images)
    assert made == []
    assert encoders.encoder(mine).name == "mine" and encoders.encoder(mine, name="x").name == "x"


def test_the_identity_is_the_one_that_old_memory_banks_carry():
    variables = {"params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    encoder = encoders.Encoder(lambda v, x: x, variables, "some")
    text = "['params']['kernel'] (2, 3) float32"
    expected = hashlib.sha256(b"some" + text.encode() + variables["params"]["kernel"].tobytes())
    assert encoders.identity(encoder) == expected.hexdigest()


def test_identity_tells_names_values_shapes_types_and_places_apart():
    def identity(variables, name="a"):
        return encoders.identity(encoders.Encoder(lambda v, x: x, variables, name))

    zeros = np.zeros((2, 3), np.float32)
    variants = [
        identity({"w": zeros}),
        identity({"w": zeros}, "b"),
        identity({"v": zeros}),
        identity({"w": zeros.T}),
        identity({"w": zeros.view(np.int32)}),
        identity({"w": zeros + 1}),
        identity({"w": zeros, "v": zeros}),
    ]
    assert len(set(variants)) == len(variants)
    assert identity({"w": jnp.asarray(zeros)}) == variants[0]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in variants)


def test_your_own_linen_module_is_an_encoder():
    class Mine(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(7)(images.reshape(images.shape[0], -1) / 255)

    images = np.full((3, 4, 4, 1), 9, np.uint8)
    encoder = encoders.encoder(Mine(), Mine().init(jax.random.key(0), images))
    assert encoder.name == "Mine"
    assert models.describe(encoder.function, encoders.MODULES.values()) is None
    assert encoder.embed(images).shape == (3, 7)


def test_the_compact_encoder_leaves_its_training_head_behind_and_is_small():
    module = encoders.Compact(3)
    pixels = jnp.zeros((1, 32, 32, 3))
    trained = jax.eval_shape(lambda: module.init(jax.random.key(0), pixels, method="project"))
    encoder = encoders.compact(module, trained)
    assert "head" in trained["params"] and "head" not in encoder.variables["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert size <= 1_300_000
    rng = np.random.default_rng(0)
    embeddings = RUN(compact(3), rng.integers(0, 256, (5, 32, 32, 3)).astype(np.uint8))
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_pixels_compare_images_by_their_correlation():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    a, b = encoders.pixels().embed(images)
    cosine = a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)
    expected = np.corrcoef(*images.reshape(2, -1).astype(float))[0, 1]
    np.testing.assert_allclose(cosine, expected, atol=1e-5)


def test_weights_that_pip_installs_can_be_saved_by_reference(monkeypatch, tmp_path):
    installed = initialised(EfficientNetLite0(32), "efficientnet-lite0@32")
    monkeypatch.setattr("ecood.encoders.files.efficientnet_lite0", lambda size: installed)
    path = tmp_path / "encoder.safetensors"
    encoders.save(path, installed, by_reference=True)
    assert path.stat().st_size < 2000
    assert encoders.identity(encoders.load(path)) == encoders.identity(installed)
    other = installed.replace(variables=jax.tree.map(lambda x: x + 1, installed.variables))
    monkeypatch.setattr("ecood.encoders.files.efficientnet_lite0", lambda size: other)
    with pytest.raises(InputError, match="other weights than those installed"):
        encoders.load(path)
    with pytest.raises(InputError, match="cannot be saved by reference"):
        encoders.save(path, compact(1), by_reference=True)
