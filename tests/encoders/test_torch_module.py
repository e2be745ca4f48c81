"""A PyTorch module is an encoder, called back from JAX's program, and says what that costs."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows
from ecood.errors import InputError
from tests import small

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed", exc_type=ImportError)


@pytest.fixture
def network(torch):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers).eval()


def scaled(x):
    return x.float() / 255


def test_it_embeds_as_the_module_does(torch, network):
    encoder = encoders.from_torch(network, scaled)
    images = small.images(5)
    found = jax.jit(type(encoder).embed)(encoder, images)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert encoder.name == "Sequential" and repr(encoder) == "Encoder(Sequential)"


def test_it_is_known_by_its_weights(torch, network):
    first = encoders.identity(encoders.from_torch(network, scaled))
    assert encoders.identity(encoders.from_torch(network, scaled)) == first
    with torch.no_grad():
        network[0].bias.add_(1)
    assert encoders.identity(encoders.from_torch(network, scaled)) != first
    assert encoders.identity(encoders.from_torch(network.to(torch.bfloat16), scaled)) != first


def test_a_scorer_around_it_scores_many_batches(network):
    encoder = encoders.from_torch(network, scaled, name="mine")
    scorer = ecood.score.fit(small.gaussian(), encoder, small.split(150, calibration=0.2))
    images = small.images(300, seed=1)
    scores = scorer(images)
    np.testing.assert_array_equal(scorer(images), scores)
    assert len(scorer.explain(images[:3]).sentences()) == 3
    np.testing.assert_allclose(scorer(images[::-1])[::-1], scores, rtol=1e-4, atol=1e-3)


def test_export_and_save_say_what_is_possible(network, tmp_path, monkeypatch):
    encoder = encoders.from_torch(network, scaled, name="mine")
    flow = small.blank_flow()
    scorer = ecood.score.fit(flow, encoder, small.images(60), noise_strength=0.1)
    with pytest.raises(InputError, match=r"calls back into Python .*made_by.* elsewhere"):
        scorer.export(tmp_path / "scorer.npz", "cpu")
    with pytest.raises(InputError, match=r"encoder mine is your own .* fit with made_by="):
        scorer.save(tmp_path / "scorer")
    assert list(tmp_path.iterdir()) == []

    module = type(sys)("own_torch_model")
    module.make = lambda: (None, encoders.from_torch(network, scaled, name="mine"))
    monkeypatch.setitem(sys.modules, "own_torch_model", module)
    path = "own_torch_model:make"
    dataclasses.replace(scorer, made_by=path).save(tmp_path / "scorer")
    again = ecood.score.load(tmp_path / "scorer", trust=path)
    images = small.images(9, seed=1)
    np.testing.assert_array_equal(again(images), scorer(images))
    network[0].bias.data.add_(1)
    with pytest.raises(InputError, match="gives another encoder .*its weights differ"):
        ecood.score.load(tmp_path / "scorer", trust=path)


def test_what_is_no_encoder_is_refused(torch, network):
    with pytest.raises(InputError, match=r"Sequential is in training mode, .* give module.eval"):
        encoders.from_torch(network.train(), scaled)
    for function, words in (
        (lambda x: x, r"gives \[2, 3, 8, 8\]; expected a tensor \[B, d\]"),
        (lambda x: {"features": x}, "gives a dict; expected"),
        (lambda x: x[:1, 0, 0], r"gives \[1, 8\]"),
    ):
        encoder = encoders.from_torch(function, scaled, name="mine")
        with pytest.raises(InputError, match=f"the module mine {words}"):
            ecood.score.fit(small.gaussian(), encoder, small.images(60))


def test_a_density_of_pytorch_by_a_pure_callback(torch, tmp_path):
    """The example of docs/flows.md, and what it loses."""
    mean = torch.full((8, 8, 3), 0.4)

    def in_torch(x):
        x = torch.from_numpy(np.array(x))
        return (-((x - mean) ** 2).sum(dim=(1, 2, 3)) / 0.02).numpy()

    def log_prob(variables, key, x):
        return jax.pure_callback(in_torch, jax.ShapeDtypeStruct(x.shape[:1], jnp.float32), x)

    def in_jax(variables, key, x):
        return -jnp.sum((x - 0.4) ** 2, axis=(1, 2, 3)) / 0.02

    images, options = small.images(9, seed=1), {"noise_strength": 0.3}
    found, expected = (
        ecood.score.fit(flows.Flow(each, {}), small.encoder(), small.images(60), **options)
        for each in (log_prob, in_jax)
    )
    np.testing.assert_allclose(found(images), expected(images), rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="calls back into Python"):
        found.export(tmp_path / "scorer.npz", "cpu")
