"""Wrong weights are refused in one sentence that names the first difference, by every encoder.

Neither PyTorch nor a network is needed: the files are made here.
"""

import functools
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from ecood import encoders, weights
from ecood.encoders import hub
from ecood.encoders.dinov2 import DINOv2
from ecood.encoders.efficientnet import EfficientNetLite0
from ecood.encoders.resnet import ResNet
from ecood.errors import InputError
from tests.encoders.test_efficientnet import weights_file
from tests.encoders.test_encoders import ENCODERS
from tests.test_torch_file import archive, legacy

PUBLISHED = {
    "resnet": ResNet(depths=(1, 1), widths=(8, 16), stem=8),
    "resnet-bottleneck": ResNet(depths=(1,), widths=(16,), stem=8, bottleneck=True),
    "dinov2": DINOv2(width=24, depth=1, heads=2, grid=5),
    "efficientnet": EfficientNetLite0(),
}
CONSTRUCTORS = {
    "resnet": encoders.resnet,
    "dinov2": encoders.dinov2,
    "efficientnet": encoders.efficientnet_lite0,
}
SAVED = ("compact-rgb", "resnet-rgb", "dinov2-grey", "efficientnet-grey", "random_features-rgb")


def norm(name, width):
    """A batch norm's arrays."""
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": [width] for leaf in leaves}


def layer(name, *shape):
    """A weight and a bias."""
    return {f"{name}.weight": list(shape), f"{name}.bias": [shape[0]]}


def resnet_layer(name, *shapes):
    return {f"{name}.convolution.weight": list(shapes)} | norm(f"{name}.normalization", shapes[0])


def lite_block(name, inside, hidden, outside, size):
    """The inverted bottleneck of EfficientNet-Lite: up if it grows, depthwise, down."""
    up = {f"{name}._expand_conv.weight": [hidden, inside, 1, 1]} | norm(f"{name}._bn0", hidden)
    return (
        (up if hidden > inside else {})
        | {f"{name}._depthwise_conv.weight": [hidden, 1, size, size]}
        | norm(f"{name}._bn1", hidden)
        | {f"{name}._project_conv.weight": [outside, hidden, 1, 1]}
        | norm(f"{name}._bn2", outside)
    )


# Channels in, hidden and out, and the kernel's side, of each block of EfficientNet-Lite0.
LITE0 = [
    (32, 32, 16, 3),
    (16, 96, 24, 3), (24, 144, 24, 3),
    (24, 144, 40, 5), (40, 240, 40, 5),
    (40, 240, 80, 3), (80, 480, 80, 3), (80, 480, 80, 3),
    (80, 480, 112, 5), (112, 672, 112, 5), (112, 672, 112, 5),
    (112, 672, 192, 5), (192, 1152, 192, 5), (192, 1152, 192, 5), (192, 1152, 192, 5),
    (192, 1152, 320, 3),
]  # fmt: skip

# Names and shapes as PyTorch's files have them, written out: no table of the loader is used here.
STEM = resnet_layer("embedder.embedder", 8, 3, 7, 7)
ARRAYS = {
    "resnet": STEM
    | resnet_layer("encoder.stages.0.layers.0.layer.0", 8, 8, 3, 3)
    | resnet_layer("encoder.stages.0.layers.0.layer.1", 8, 8, 3, 3)
    | resnet_layer("encoder.stages.1.layers.0.layer.0", 16, 8, 3, 3)
    | resnet_layer("encoder.stages.1.layers.0.layer.1", 16, 16, 3, 3)
    | resnet_layer("encoder.stages.1.layers.0.shortcut", 16, 8, 1, 1),
    "resnet-bottleneck": STEM
    | resnet_layer("encoder.stages.0.layers.0.layer.0", 4, 8, 1, 1)
    | resnet_layer("encoder.stages.0.layers.0.layer.1", 4, 4, 3, 3)
    | resnet_layer("encoder.stages.0.layers.0.layer.2", 16, 4, 1, 1)
    | resnet_layer("encoder.stages.0.layers.0.shortcut", 16, 8, 1, 1),
    "dinov2": {
        "embeddings.cls_token": [1, 1, 24],
        "embeddings.position_embeddings": [1, 26, 24],
        "encoder.layer.0.layer_scale1.lambda1": [24],
        "encoder.layer.0.layer_scale2.lambda1": [24],
    }
    | layer("embeddings.patch_embeddings.projection", 24, 3, 14, 14)
    | layer("encoder.layer.0.norm1", 24)
    | layer("encoder.layer.0.attention.attention.query", 24, 24)
    | layer("encoder.layer.0.attention.attention.key", 24, 24)
    | layer("encoder.layer.0.attention.attention.value", 24, 24)
    | layer("encoder.layer.0.attention.output.dense", 24, 24)
    | layer("encoder.layer.0.norm2", 24)
    | layer("encoder.layer.0.mlp.fc1", 96, 24)
    | layer("encoder.layer.0.mlp.fc2", 24, 96)
    | layer("layernorm", 24),
    "efficientnet": {"_conv_stem.weight": [32, 3, 3, 3], "_conv_head.weight": [1280, 320, 1, 1]}
    | norm("_bn0", 32)
    | norm("_bn1", 1280)
    | {
        name: shape
        for index, block in enumerate(LITE0)
        for name, shape in lite_block(f"_blocks.{index}", *block).items()
    },
}


@functools.cache
def published(family):
    """The arrays of a network, all zero, under the names and with the axes that PyTorch has."""
    return {name: np.zeros(shape, np.float32) for name, shape in ARRAYS[family].items()}


def missing(arrays):
    """Two are missing: one is named."""
    first, last = list(arrays)[0], list(arrays)[-1]
    kept = {name: x for name, x in arrays.items() if name not in (first, last)}
    return kept, f"({re.escape(first)}|{re.escape(last)}) is missing"


def extra(arrays):
    return arrays | {"more": np.zeros(3, np.float32)}, "more is not part of the"


def of_another_shape(arrays):
    name = list(arrays)[len(arrays) // 2]
    other = arrays[name][None]
    shapes = [re.escape(str(list(x.shape))) for x in (other, arrays[name])]
    problem = f"{re.escape(name)} has shape {shapes[0]}, expected {shapes[1]}"
    return arrays | {name: other}, problem


def of_another_type(arrays):
    name = list(arrays)[-1]
    return arrays | {name: arrays[name].astype(np.int8)}, f"{re.escape(name)} is int8, expected"


FAULTS = [missing, extra, of_another_shape, of_another_type]


def assert_refused(problem, call):
    with pytest.raises(InputError, match=problem) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("family", PUBLISHED)
def test_a_published_file_that_does_not_fit(family, fault, tmp_path):
    path = tmp_path / "model.safetensors"
    arrays, problem = fault(published(family))
    path.write_bytes(safetensors.numpy.save(arrays))
    what = rf"the weights of .*model.safetensors are not those of \w+: {problem}"
    assert_refused(what, lambda: hub.fit(hub.read(path), PUBLISHED[family], str(path)))


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_published_file_that_fits_is_taken(family):
    rng = np.random.default_rng(0)
    arrays = {name: np.float32(rng.normal(size=x.shape)) for name, x in published(family).items()}
    bookkeeping = {"a.num_batches_tracked": np.asarray(3)}
    params = hub.fit(arrays | bookkeeping, PUBLISHED[family], "the test")["params"]
    assert len(jax.tree.leaves(params)) == len(arrays)
    for path, leaf in traverse_util.flatten_dict(params).items():
        torch = arrays[".".join([*path[:-1], NAMES.get(path[-1], path[-1])])]
        turn = {2: (1, 0), 4: (2, 3, 1, 0)}.get(torch.ndim, range(torch.ndim))
        np.testing.assert_array_equal(leaf, torch.transpose(*turn), err_msg=str(path))


NAMES = {"kernel": "weight", "scale": "weight"}


@pytest.mark.skipif(not encoders.efficientnet_lite0_installed(), reason="no weights at hand")
def test_the_names_written_out_here_are_those_of_the_installed_file():
    arrays = hub.read(str(weights_file()))
    needed = {name: list(x.shape) for name, x in arrays.items() if not name.startswith("_fc.")}
    tracked = [name for name in needed if name.endswith("num_batches_tracked")]
    assert {n: s for n, s in needed.items() if n not in tracked} == ARRAYS["efficientnet"]


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize("family", [*PUBLISHED, "nothing"])
def test_a_file_of_another_network(family, name, tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {} if family == "nothing" else published(family)
    path.write_bytes(safetensors.numpy.save(arrays))
    if family == name == "efficientnet":  # has one size only
        assert CONSTRUCTORS[name](path).name == "efficientnet-lite0@96"
    else:
        problem = r"model.safetensors are not those of .*: \S+ (is missing|has shape .*, expected)"
        assert_refused(problem, lambda: CONSTRUCTORS[name](path))


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_published_file(name, share, tmp_path):
    path = tmp_path / "model.safetensors"
    whole = safetensors.numpy.save(published("dinov2"))
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(
        "model.safetensors is .* damaged or incomplete", lambda: CONSTRUCTORS[name](path)
    )


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize("wrap", [legacy, archive])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_truncated_pytorch_file(name, wrap, share, tmp_path):
    path = tmp_path / "model.pth"
    whole = wrap({})
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused("model.pth is damaged or incomplete", lambda: CONSTRUCTORS[name](path))


@functools.cache
def encoder(name):
    return ENCODERS[name]()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("name", SAVED)
def test_a_saved_file_that_does_not_fit(name, fault, tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoders.save(path, encoder(name).replace(trained_on=None))
    tree, metadata = weights.load(path)
    flat, problem = fault({"/".join(p): x for p, x in traverse_util.flatten_dict(tree).items()})
    weights.save(path, traverse_util.unflatten_dict(flat, sep="/"), metadata)
    what = rf"the weights of .*encoder.safetensors do not match the model: {problem}"
    assert_refused(what, lambda: encoders.load(path))


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_saved_file(name, share, tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoders.save(path, encoder(name))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused("encoder.safetensors is .* damaged or incomplete", lambda: encoders.load(path))
