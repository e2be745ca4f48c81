import hashlib
import sys

import numpy as np
import pytest
import safetensors.numpy

from ecood import encoders
from ecood.encoders import hub
from ecood.encoders.resnet import ResNet
from ecood.errors import InputError

MODULE = ResNet(depths=(1,), widths=(8,), stem=8)


def published():
    """The arrays of MODULE as PyTorch would publish them, by hand."""
    rng = np.random.default_rng(0)
    shapes = {"embedder.embedder": (8, 3, 7, 7)}
    shapes |= {f"encoder.stages.0.layers.0.layer.{i}": (8, 8, 3, 3) for i in (0, 1)}
    arrays = {}
    for name, shape in shapes.items():
        arrays[f"{name}.convolution.weight"] = rng.normal(size=shape).astype(np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{name}.normalization.{leaf}"] = np.ones(8, np.float32)
        arrays[f"{name}.normalization.num_batches_tracked"] = np.asarray(3)
    return arrays


def test_arrays_are_transposed_and_bookkeeping_is_left_out():
    arrays = published()
    params = hub.fit(arrays, MODULE, "x")["params"]
    kernel = params["embedder.embedder.convolution"]["kernel"]
    source = arrays["embedder.embedder.convolution.weight"]
    assert kernel.shape == (7, 7, 3, 8)
    assert kernel[1, 2, 0, 4] == source[4, 0, 1, 2]


def without(arrays, name):
    return {key: value for key, value in arrays.items() if key != name}


FIRST = "embedder.embedder.convolution.weight"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a: without(a, FIRST), f"{FIRST} is missing"),
        (lambda a: a | {"more.weight": np.ones(3)}, "more.weight is not part of the network"),
        (
            lambda a: a | {FIRST: np.ones((8, 1, 7, 7), np.float32)},
            rf"{FIRST} has shape \[8, 1, 7, 7\], expected \[8, 3, 7, 7\]",
        ),
        (lambda a: a | {FIRST: a[FIRST].astype(np.int8)}, f"{FIRST} is int8, expected floats"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_their_first_difference(change, problem):
    with pytest.raises(InputError, match=problem) as caught:
        hub.fit(change(published()), MODULE, "these")
    assert str(caught.value).startswith("the weights of these are not those of ResNet: ")


def test_a_truncated_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    whole = safetensors.numpy.save(published())
    path.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="damaged or incomplete"):
        encoders.resnet(path)


def test_a_file_a_folder_and_a_checksum_find_the_same_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert hub.find(path) == hub.find(tmp_path) == hub.find(str(path), digest.upper()) == path
    with pytest.raises(InputError, match=f"has SHA-256 {digest}, expected {'0' * 64}"):
        hub.find(path, "0" * 64)


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no weights file .*gone.safetensors"):
        hub.find(tmp_path / "gone.safetensors")


def test_without_the_hubs_package_the_error_says_which_file_to_get(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install huggingface_hub") as caught:
        hub.find("microsoft/resnet-18")
    assert "https://huggingface.co/microsoft/resnet-18/resolve/main/model.safetensors" in str(
        caught.value
    )


@pytest.mark.reference
def test_without_a_network_the_error_says_which_file_to_get(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="it would use the network")

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(InputError, match="cannot be fetched .*ConnectionError.* download https://"):
        hub.find("microsoft/resnet-18")


@pytest.mark.reference
def test_with_a_network_the_file_comes_from_the_hubs_cache(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="it would use the network")
    path = tmp_path / "cached"
    path.write_bytes(b"")

    def download(repository, file, **_):
        assert (repository, file) == ("microsoft/resnet-18", "model.safetensors")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert hub.find("microsoft/resnet-18") == path
