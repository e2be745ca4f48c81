"""What every encoder keeps: one table, one line an encoder."""

import functools
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


@pytest.fixture(params=ENCODERS)
def case(request):
    """An encoder, and five images for it."""
    side, channels = (28, 1) if request.param.endswith("grey") else (32, 3)
    images = np.random.default_rng(0).integers(0, 256, (5, side, side, channels))
    return ENCODERS[request.param](), images.astype(np.uint8)


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
    assert float(jnp.std(together, axis=0).max()) > 1e-3 * scale  # images are told apart


def test_compiling_changes_nothing_but_rounding(case):
    encoder, images = case
    if encoder.name == "efficientnet":
        pytest.skip("its hundreds of operations compile one by one for many seconds")
    plain = encoder.embed(encoder.variables, images)
    compiled = jax.jit(encoder.embed)(encoder.variables, images)
    np.testing.assert_allclose(plain, compiled, rtol=0, atol=1e-4 * float(jnp.abs(plain).max()))


def test_grey_images_are_rgb_images_with_equal_channels():
    encoder = tiny_resnet()
    grey = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1)).astype(np.uint8)
    embed = jax.jit(encoder.embed)
    np.testing.assert_allclose(
        embed(encoder.variables, grey),
        embed(encoder.variables, np.repeat(grey, 3, axis=-1)),
        rtol=1e-5,
        atol=1e-6,
    )


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
    chex.assert_trees_all_equal(loaded.variables, encoder.variables)
    expected = jax.eval_shape(encoder.embed, encoder.variables, images)
    assert jax.eval_shape(loaded.embed, loaded.variables, images) == expected
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
    small = compact(3)
    embeddings = jax.jit(small.embed)(small.variables, np.zeros((2, 32, 32, 3), np.uint8))
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
