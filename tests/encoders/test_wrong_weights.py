"""Wrong weights are refused in one sentence that names the first difference, by every encoder.

Neither PyTorch nor a network is needed: the files are made here.
"""

import functools
import re

import jax
import jax.numpy as jnp
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
from tests.encoders.test_encoders import ENCODERS
from tests.encoders.test_torch_file import archive, legacy

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


@functools.cache
def published(family):
    """The arrays of a network under the names, and with the axes, that PyTorch has."""
    module = PUBLISHED[family]
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    template = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    arrays = {}
    for path, leaf in traverse_util.flatten_dict(template).items():
        shape = [leaf.shape[axis] for axis in np.argsort(hub._axes(leaf.ndim))]
        arrays[hub._torch_name(path)] = np.zeros(shape, np.float32)
    return arrays


def first_and_last(arrays):
    names = list(arrays)
    return names[0], names[-1]


def missing(arrays):
    """Two are missing: the first one counts."""
    first, last = first_and_last(arrays)
    kept = {name: x for name, x in arrays.items() if name not in (first, last)}
    return kept, f"{re.escape(first)} is missing"


def extra(arrays):
    return arrays | {"more": np.zeros(3, np.float32)}, "more is not part of the"


def of_another_shape(arrays):
    first, last = first_and_last(arrays)
    others = {name: arrays[name][None] for name in (first, last)}
    shapes = [re.escape(str(list(x.shape))) for x in (others[first], arrays[first])]
    return arrays | others, f"{re.escape(first)} has shape {shapes[0]}, expected {shapes[1]}"


def of_another_type(arrays):
    last = first_and_last(arrays)[1]
    return arrays | {last: arrays[last].astype(np.int8)}, f"{re.escape(last)} is int8, expected"


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
    variables = hub.fit(published(family), PUBLISHED[family], "the test")
    assert len(jax.tree.leaves(variables)) == len(published(family))


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


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("name", SAVED)
def test_a_saved_file_that_does_not_fit(name, fault, tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoders.save(path, ENCODERS[name]())
    tree, metadata = weights.load(path)
    paths = sorted(traverse_util.flatten_dict(tree).items())  # the order that they are checked in
    flat, problem = fault({"/".join(path): x for path, x in paths})
    weights.save(path, traverse_util.unflatten_dict(flat, sep="/"), metadata)
    what = rf"the weights of .*encoder.safetensors do not match the model: {problem}"
    assert_refused(what, lambda: encoders.load(path))


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_saved_file(name, share, tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoders.save(path, ENCODERS[name]())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused("encoder.safetensors is .* damaged or incomplete", lambda: encoders.load(path))
