"""What every encoder keeps: one table, one line an encoder."""

import re

import chex
import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import encoders, weights
from ecood.encoders.dinov2 import DINOv2
from ecood.encoders.efficientnet import EfficientNetLite0
from ecood.encoders.resnet import ResNet
from ecood.errors import InputError


def initialised(module, name):
    """An encoder of random weights: what is tested here does not depend on their values."""
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    return encoders.encoder(module, module.init(jax.random.key(0), images), name=name)


def compact(channels):
    module = encoders.Compact(channels, width=32, bottleneck=16, blocks=2)
    pixels = jnp.zeros((1, 28, 28, channels))
    variables = module.init(jax.random.key(0), pixels, method="project")
    return encoders.compact(module, variables)


TINY_RESNET = ResNet(depths=(1, 1), widths=(8, 16), stem=8, size=32)
ENCODERS = {
    "compact": compact,
    "dinov2": lambda _: initialised(DINOv2(width=32, depth=2, heads=2, size=28), "dinov2"),
    "efficientnet": lambda _: initialised(EfficientNetLite0(32), "efficientnet"),
    "pixels": lambda _: encoders.pixels(),
    "random_features": lambda channels: encoders.random_features(jax.random.key(0), channels),
    "resnet": lambda _: initialised(TINY_RESNET, "resnet"),
    "own function": lambda _: encoders.encoder(lambda x: x.mean((1, 2)) / 255, name="own"),
}


@pytest.fixture(params=[(name, c) for name in ENCODERS for c in (1, 3)], ids=str)
def case(request):
    name, channels = request.param
    side = 28 if channels == 1 else 32
    images = np.random.default_rng(0).integers(0, 256, (5, side, side, channels))
    return ENCODERS[name](channels), images.astype(np.uint8)


def test_embeddings_have_the_shape_and_type_and_depend_on_the_image_alone(case):
    encoder, images = case
    embed = jax.jit(encoder.embed)
    together = embed(encoder.variables, images)
    chex.assert_shape(together, (5, None))
    assert together.dtype == jnp.float32
    chex.assert_tree_all_finite(together)
    alone = embed(encoder.variables, images[2:3])
    backwards = embed(encoder.variables, images[::-1])
    scale = float(jnp.abs(together).max())
    np.testing.assert_allclose(alone[0], together[2], rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(backwards[::-1], together, rtol=0, atol=1e-5 * scale)
    plain = encoder.embed(encoder.variables, images)
    np.testing.assert_allclose(plain, together, rtol=0, atol=1e-4 * scale)
    assert float(jnp.std(together, axis=0).max()) > 1e-3 * scale  # images are told apart


def test_one_export_serves_all_platforms_and_any_batch(case):
    encoder, images = case
    shape = jax.export.symbolic_shape("b, " + ", ".join(map(str, images.shape[1:])))
    program = jax.export.export(jax.jit(encoder.embed), platforms=("cpu", "cuda", "tpu"))(
        encoder.variables, jax.ShapeDtypeStruct(shape, jnp.uint8)
    )
    program = jax.export.deserialize(program.serialize())
    found = program.call(encoder.variables, images[:3])
    expected = jax.jit(encoder.embed)(encoder.variables, images[:3])
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


def test_saving_and_loading_keeps_the_identity(case, tmp_path):
    encoder, images = case
    path = tmp_path / "encoder.safetensors"
    if encoder.architecture is None:
        with pytest.raises(InputError, match="own function or module, which cannot be saved"):
            encoders.save(path, encoder)
        assert list(tmp_path.iterdir()) == []
        return
    encoders.save(path, encoder, {"command": "test"})
    loaded = encoders.load(path)
    assert loaded.name == encoder.name
    assert loaded.architecture == encoder.architecture
    assert encoders.identity(loaded) == encoders.identity(encoder)
    np.testing.assert_array_equal(
        loaded.embed(loaded.variables, images), encoder.embed(encoder.variables, images)
    )
    assert weights.load(path)[1]["command"] == "test"


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
    assert encoder.architecture is None
    assert encoder.embed(encoder.variables, images).shape == (3, 7)


def test_the_compact_encoder_leaves_its_training_head_behind_and_is_small():
    module = encoders.Compact(3)
    pixels = jnp.zeros((1, 32, 32, 3))
    trained = jax.eval_shape(lambda: module.init(jax.random.key(0), pixels, method="project"))
    encoder = encoders.compact(module, trained)
    assert "head" in trained["params"] and "head" not in encoder.variables["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert size <= 1_300_000
    embeddings = compact(3).embed(compact(3).variables, np.zeros((2, 32, 32, 3), np.uint8))
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_pixels_compare_images_by_their_correlation():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    a, b = encoders.pixels().embed({}, images)
    cosine = a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)
    expected = np.corrcoef(*images.reshape(2, -1).astype(float))[0, 1]
    np.testing.assert_allclose(cosine, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tree, meta: (tree, {}), "does not say which encoder it holds"),
        (lambda tree, meta: (tree, {"architecture": "{"}), "does not say which encoder"),
        (
            lambda tree, meta: (
                tree,
                {"architecture": '{"kind": "Oracle", "name": "x", "attributes": {}}'},
            ),
            "is of kind 'Oracle'; this version of ecood knows Compact, ",
        ),
        (
            lambda tree, meta: (
                tree,
                {"architecture": '{"kind": "Compact", "name": "x", "attributes": {"depth": 3}}'},
            ),
            "does not describe a Compact",
        ),
        (lambda tree, meta: ({"params": {}}, meta), "params/.* is missing"),
        (
            lambda tree, meta: ({"params": tree["params"] | {"more": np.ones(1)}}, meta),
            "params/more is not part of the model",
        ),
    ],
)
def test_a_file_of_another_encoder_is_refused(change, problem, tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoders.save(path, compact(1))
    tree, metadata = weights.load(path)
    tree, metadata = change(tree, metadata)
    weights.save(path, tree, metadata)
    with pytest.raises(InputError, match=problem):
        encoders.load(path)


def test_weights_that_pip_installs_can_be_saved_by_reference(monkeypatch, tmp_path):
    installed = initialised(EfficientNetLite0(32), "efficientnet-lite0@32")
    monkeypatch.setattr("ecood.encoders.files.efficientnet_lite0", lambda size: installed)
    path = tmp_path / "encoder.safetensors"
    encoders.save(path, installed, by_reference=True)
    assert path.stat().st_size < 2000
    assert encoders.identity(encoders.load(path)) == encoders.identity(installed)
    other = installed._replace(variables=jax.tree.map(lambda x: x + 1, installed.variables))
    monkeypatch.setattr("ecood.encoders.files.efficientnet_lite0", lambda size: other)
    with pytest.raises(InputError, match="other weights than those installed"):
        encoders.load(path)
    with pytest.raises(InputError, match="cannot be saved by reference"):
        encoders.save(path, compact(1), by_reference=True)
