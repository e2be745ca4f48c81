"""Any model to a file and back: what is written, what is read, what is refused."""

import functools
import json
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ecood import encoders, flows, models, splits, weights
from ecood.errors import InputError
from tests import small

SHAPE = (8, 8, 3)
# One module of each kind, small, no attribute at its default.
FLOWS = {
    "Glow": flows.Glow(SHAPE, depth=2, levels=1, width=4, dtype=jnp.bfloat16),
    "ClassGlow": flows.ClassGlow(SHAPE, 2, 1, width=4, classes=3, dtype=jnp.bfloat16),
    "TarFlow": flows.TarFlow(
        SHAPE, 2, layers=2, width=6, heads=3, patch=2, margin=0.01, dtype=jnp.bfloat16
    ),
    "Jet": flows.Jet(
        SHAPE, 2, layers=2, width=6, heads=3, patch=2, margin=0.01, dtype=jnp.bfloat16
    ),
    "PixelCNN": flows.PixelCNN(SHAPE, 1, levels=2, width=4, mixtures=3, dtype=jnp.bfloat16),
    "ResidualFlow": flows.ResidualFlow(
        SHAPE,
        depth=2,
        levels=1,
        width=4,
        margin=0.05,
        terms=3,
        probes=2,
        squeeze_first=False,
        dense=2,
        dense_width=5,
        settled=True,
        unbiased=True,
    ),
}
ENCODERS = {
    "Compact": encoders.Compact(1, 16, 8, blocks=1, features=4, projection=3),
    "DINOv2": encoders.MODULES["DINOv2"](width=32, depth=2, heads=2, grid=5, size=28),
    "EfficientNetLite0": encoders.MODULES["EfficientNetLite0"](size=32),
    "Elsewhere": encoders.Elsewhere(5),
    "Pixels": encoders.MODULES["Pixels"](),
    "RandomFeatures": encoders.MODULES["RandomFeatures"](1, filters=3, size=4),
    "ResNet": encoders.MODULES["ResNet"]((1, 2), (8, 16), bottleneck=True, stem=4, size=32),
}
KINDS = {**flows.MODULES, **encoders.MODULES}
MODULES = FLOWS | ENCODERS
ROOMS = {name: flows if name in FLOWS else encoders for name in MODULES}


def example(module):
    if isinstance(module, tuple(flows.MODULES.values())):
        return jax.ShapeDtypeStruct((1, *module.image_shape), jnp.float32)
    return jax.ShapeDtypeStruct((1, 32, 32, getattr(module, "channels", 3)), jnp.uint8)


@functools.cache
def filled(module):
    """Variables of the module's shapes, every leaf another number."""
    rngs = {"params": jax.random.key(0), "probe": jax.random.key(0)}
    template = jax.eval_shape(module.init, rngs, example(module))
    count = iter(range(10_000))
    return jax.tree.map(lambda leaf: np.full(leaf.shape, next(count), leaf.dtype), template)


def test_the_table_has_every_kind_of_model():
    assert set(MODULES) == set(KINDS)
    for name, module in MODULES.items():
        assert type(module) is KINDS[name]


@pytest.mark.parametrize("name", MODULES)
def test_a_description_is_json_and_builds_the_same_module(name):
    module = MODULES[name]
    described = models.describe(module, KINDS.values())
    assert described["kind"] == name
    read = json.loads(json.dumps(described))
    assert models.build(read, KINDS.values()) == module
    assert hash(models.build(read, KINDS.values())) == hash(module)
    defaults = {f.name for f in module.__dataclass_fields__.values()} - {"parent", "name"}
    assert set(described["attributes"]) == defaults


def test_a_module_of_ones_own_has_no_description():
    class Glow(nn.Module):
        pass

    assert models.describe(Glow(), KINDS.values()) is None  # not even under a known name
    assert models.describe(lambda x: x, KINDS.values()) is None
    assert models.describe(FLOWS["Glow"], [flows.ResidualFlow]) is None


@pytest.mark.parametrize("name", MODULES)
def test_what_is_written_is_read(name, tmp_path):
    module, path = MODULES[name], tmp_path / "model.safetensors"
    variables, trained_on = filled(module), splits.remember(small.images(4))
    described = models.describe(module, KINDS.values()) | {"name": "mine"}
    metadata = {"data": "noise", "command": "make it"}
    models.write(path, described, variables, trained_on=trained_on, metadata=metadata)
    stored = models.read(path, KINDS.values(), example)
    assert stored.module == module and stored.name == "mine" and stored.metadata == metadata
    chex.assert_trees_all_equal(stored.variables, variables)
    chex.assert_trees_all_equal_shapes_and_dtypes(stored.variables, variables)
    np.testing.assert_array_equal(stored.trained_on, trained_on)
    models.write(path, described, variables)
    assert models.read(path, KINDS.values(), example).trained_on is None
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_any_string_can_be_metadata(tmp_path):
    path, metadata = tmp_path / "flow.safetensors", {"identity": "42", "trained_on": "noise"}
    flows.save(path, flows.bind(FLOWS["Glow"], filled(FLOWS["Glow"])), metadata)
    flow = flows.load(path)
    assert flow.trained_on is None and flow.variables is not None
    assert weights.load(path)[1].items() >= metadata.items()


def test_a_file_of_ecood_0_1_is_read(tmp_path):
    """A flow's attributes stand beside its kind, and nothing is remembered."""
    path = tmp_path / "flow.safetensors"
    architecture = {"kind": "Glow", "image_shape": [8, 8, 3], "depth": 2, "levels": 1, "width": 4}
    variables = filled(FLOWS["Glow"])
    architecture["dtype"] = "bfloat16"
    weights.save(path, variables, {"architecture": json.dumps(architecture), "data": "noise"})
    flow = flows.load(path)
    assert flow.density == FLOWS["Glow"] and flow.trained_on is None
    chex.assert_trees_all_equal(flow.variables, variables)
    path = tmp_path / "encoder.safetensors"
    variables = filled(ENCODERS["RandomFeatures"])
    attributes = {"channels": 1, "filters": 3, "size": 4}
    architecture = {"kind": "RandomFeatures", "name": "old", "attributes": attributes}
    weights.save(path, variables, {"architecture": json.dumps(architecture)})
    encoder = encoders.load(path)
    assert encoder.function == ENCODERS["RandomFeatures"] and encoder.name == "old"
    assert encoder.trained_on is None
    chex.assert_trees_all_equal(encoder.variables, variables)


GLOW = {"kind": "Glow", "attributes": {"image_shape": [8, 8, 3]}}


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ({"kind": "Nonesuch"}, "the model is of kind 'Nonesuch'; this version of ecood knows Glow"),
        ({}, "is of kind None"),
        ([], "is of kind None"),
        ("Glow", "is of kind None"),
        ({"kind": ["Glow"]}, r"is of kind \['Glow'\]"),
        ({"kind": "Glow"}, "does not describe a Glow"),
        ({"kind": "Glow", "image_shape": [8, 8, 3], "colour": 1}, "does not describe a Glow"),
        ({"kind": "Glow", "attributes": [8, 8, 3]}, "does not describe a Glow"),
        ({"kind": "Glow", "attributes": {"image_shape": [8, 8]}}, "does not describe a Glow"),
        ({"kind": "Glow", "attributes": {"image_shape": 8}}, "does not describe a Glow"),
        ({"kind": "Glow", "image_shape": [8, 8, 3], "depth": "two"}, "does not describe a Glow"),
        ({"kind": "Glow", "image_shape": [8, 8, 3], "dtype": "much"}, "does not describe a Glow"),
        ({"kind": "Glow", "image_shape": [7, 8, 3]}, "levels need sides divisible by"),
        (
            {"kind": "Glow", "image_shape": [8, 8, 3], "depth": 0},
            "depth is 0; expected a whole number, 1 or more",
        ),
    ],
)
def test_an_architecture_that_is_none_is_refused_in_one_sentence(architecture, words):
    with pytest.raises(InputError, match=words) as caught:
        models.build(architecture, KINDS.values())
    assert "\n" not in str(caught.value)


def rewrite(path, change):
    tree, metadata = weights.load(path)
    weights.save(path, *change(tree, metadata))


def first(tree):
    return next(iter(sorted(traverse_util.flatten_dict(tree).items())))


def without_the_first(tree, metadata):
    flat = traverse_util.flatten_dict(tree)
    flat.pop(first(tree)[0])
    return traverse_util.unflatten_dict(flat), metadata


def attribute(name, value):
    def change(tree, metadata):
        architecture = json.loads(metadata["architecture"])
        architecture["attributes"][name] = value
        return tree, metadata | {"architecture": json.dumps(architecture)}

    return change


HARMS = {
    "no header": (lambda t, m: (t, {}), "does not say which model it holds; expected a file that"),
    "no JSON": (lambda t, m: (t, m | {"architecture": "{"}), "does not say which model it holds"),
    "no object": (lambda t, m: (t, m | {"architecture": "[]"}), "does not say which model"),
    "a strange kind": (
        lambda t, m: (t, m | {"architecture": '{"kind": "Oracle"}'}),
        "is of kind 'Oracle'; this version of ecood knows ",
    ),
    "a strange attribute": (attribute("colour", 1), "does not describe a "),
    "an array less": (without_the_first, "do not match the model: .* is missing"),
    "an array more": (lambda t, m: (t | {"more": np.ones(1)}, m), "more is not part of the model"),
    "bad fingerprints": (
        lambda t, m: (t | {"trained_on": np.ones(3)}, m),
        r"holds no fingerprints \[M, 2\] under trained_on; it is damaged",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["Glow", "ResidualFlow", "RandomFeatures", "ResNet"])
def test_a_damaged_file_is_refused_in_one_sentence(name, harm, tmp_path):
    path = tmp_path / "model.safetensors"
    models.write(path, models.describe(MODULES[name], KINDS.values()), filled(MODULES[name]))
    change, words = HARMS[harm]
    rewrite(path, change)
    with pytest.raises(InputError, match=words) as caught:
        ROOMS[name].load(path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("name", "attribute_", "value"),
    [
        ("Glow", "width", 8),
        ("Glow", "depth", 3),
        ("Glow", "width", 2.5),
        ("ResidualFlow", "levels", 2),
        ("RandomFeatures", "channels", 3),
        ("RandomFeatures", "filters", -1),
        ("Compact", "width", 0),
        ("Compact", "blocks", "many"),
        ("DINOv2", "heads", 3),
        ("ResNet", "depths", [1]),
        ("ResNet", "widths", 8),
    ],
)
def test_weights_of_another_architecture_are_refused_in_one_sentence(
    name, attribute_, value, tmp_path
):
    path = tmp_path / "model.safetensors"
    models.write(path, models.describe(MODULES[name], KINDS.values()), filled(MODULES[name]))
    rewrite(path, attribute(attribute_, value))
    with pytest.raises(InputError, match="do not match the model|does not describe a") as caught:
        ROOMS[name].load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Glow", "Pixels"])
def test_a_model_of_the_other_room_is_refused(name, tmp_path):
    path = tmp_path / "model.safetensors"
    models.write(path, models.describe(MODULES[name], KINDS.values()), filled(MODULES[name]))
    other = encoders if name in FLOWS else flows
    with pytest.raises(InputError, match=f"is of kind '{name}'; this version of ecood knows"):
        other.load(path)


def test_an_identity_is_that_of_the_weights_that_are_written(tmp_path):
    module = encoders.Compact(3, 4, 4, 1, 4)
    encoder = encoders.encoder(module, jax.tree.map(np.float64, filled(module)))
    encoders.save(tmp_path / "encoder.safetensors", encoder)
    again = encoders.load(tmp_path / "encoder.safetensors")
    assert encoders.identity(again) == encoders.identity(encoder)


class Scaled(nn.Module):
    by: Any

    @nn.compact
    def __call__(self, x):
        return x * self.param("by", lambda _: jnp.asarray(self.by))


def test_a_template_is_its_callers_own_and_of_this_very_module():
    x = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    for by in (2, 2.0, np.ones((1, 3), np.float32)):  # equal, but not alike; of no hash
        for _ in range(2):
            found = models.template(Scaled(by), x)
            assert found.pop("params")["by"].dtype == jnp.asarray(by).dtype
    with jax.enable_x64(True):
        assert models.template(Scaled(2.0), x)["params"]["by"].dtype == np.float64
