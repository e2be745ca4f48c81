import dataclasses

import jax
import numpy as np
import pytest

from ecood.encoders import Encoder, hub, resnet
from ecood.encoders.resnet import ResNet

torch = pytest.importorskip("torch", reason="the reference implementation is PyTorch's")
transformers = pytest.importorskip("transformers", reason="the reference is its ResNetModel")
pytestmark = pytest.mark.reference

TINY = ResNet(depths=(1, 2), widths=(8, 16), stem=8)
TINY_BOTTLENECK = ResNet(depths=(2, 1), widths=(16, 32), stem=8, bottleneck=True)
RESNET_50 = ResNet((3, 4, 6, 3), (256, 512, 1024, 2048), bottleneck=True)


def save_reference(module, folder):
    """A reference of random weights, running statistics included, saved in its own format."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=module.stem,
        hidden_sizes=list(module.widths),
        depths=list(module.depths),
        layer_type="bottleneck" if module.bottleneck else "basic",
    )
    reference = transformers.ResNetModel(config).eval()
    for layer in reference.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, 0, 0.1)
    reference.save_pretrained(folder)
    return reference


@pytest.mark.parametrize(
    ("module", "side"),
    [
        pytest.param(TINY, 32, id="basic"),
        pytest.param(TINY_BOTTLENECK, 37, id="bottleneck-odd-side"),
        pytest.param(ResNet(), 96, id="resnet-18", marks=pytest.mark.slow),
        pytest.param(RESNET_50, 224, id="resnet-50", marks=pytest.mark.slow),
    ],
)
def test_features_equal_the_reference(module, side, tmp_path):
    reference = save_reference(module, tmp_path)
    variables = hub.fit(hub.read(hub.find(tmp_path)), module, "the test's weights")
    x = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(x).permute(0, 3, 1, 2)).last_hidden_state
    expected = expected.permute(0, 2, 3, 1).numpy()
    found = module.apply(variables, x, method="features")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "width"),
    [(ResNet(), "resnet-18@64", 512), (RESNET_50, "resnet-50@64", 2048)],
)
def test_the_constructor_tells_the_two_networks_apart(module, name, width, tmp_path):
    save_reference(module, tmp_path)
    encoder = resnet(tmp_path, size=64)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1)).astype(np.uint8)
    assert encoder.name == name
    assert jax.eval_shape(Encoder.embed, encoder, images).shape == (2, width)


def test_the_pooled_preprocessed_features_are_the_embedding(tmp_path):
    save_reference(TINY, tmp_path)
    module = dataclasses.replace(TINY, size=32)
    variables = hub.fit(hub.read(tmp_path / "model.safetensors"), module, "the test's weights")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((images / 255 - mean) / std).astype(np.float32)
    expected = module.apply(variables, x, method="features").mean((1, 2))
    np.testing.assert_allclose(module.apply(variables, images), expected, rtol=1e-4, atol=1e-5)
