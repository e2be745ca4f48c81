import jax.numpy as jnp
import numpy as np
import pytest

from ecood.encoders import dinov2, hub
from ecood.encoders.dinov2 import DINOv2
from ecood.errors import InputError

torch = pytest.importorskip("torch", reason="the reference implementation is PyTorch's")
transformers = pytest.importorskip("transformers", reason="the reference is its Dinov2Model")
pytestmark = pytest.mark.reference

TINY = DINOv2(width=32, depth=2, heads=2, grid=5)
BASE = DINOv2(width=768, heads=12)


def save_reference(module, folder):
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=module.width,
        num_hidden_layers=module.depth,
        num_attention_heads=module.heads,
        image_size=module.grid * module.patch,
        patch_size=module.patch,
    )
    reference = transformers.Dinov2Model(config).eval()
    for name, parameter in reference.named_parameters():
        if not name.endswith("weight") or "norm" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    reference.save_pretrained(folder)
    return reference


@pytest.mark.parametrize(
    ("module", "side"),
    [
        pytest.param(TINY, 70, id="trained-size"),
        pytest.param(TINY, 42, id="smaller"),
        pytest.param(TINY, 98, id="larger"),
        pytest.param(DINOv2(), 98, id="small", marks=pytest.mark.slow),
        pytest.param(DINOv2(), 224, id="small-224", marks=pytest.mark.slow),
        pytest.param(BASE, 98, id="base", marks=pytest.mark.slow),
    ],
)
def test_tokens_equal_the_reference(module, side, tmp_path):
    reference = save_reference(module, tmp_path)
    arrays = hub.read(hub.find(tmp_path))
    variables = hub.fit(arrays, module, "the test's weights", ignore=("embeddings.mask_token",))
    x = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(x).permute(0, 3, 1, 2)).last_hidden_state.numpy()
    found = module.apply(variables, x, method="tokens")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_embedding_is_the_class_token_of_the_resized_image(tmp_path):
    save_reference(TINY, tmp_path)
    module = TINY.clone(size=28)
    arrays = hub.read(tmp_path / "model.safetensors")
    variables = hub.fit(arrays, module, "the test's weights", ignore=("embeddings.mask_token",))
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = jnp.float32((images / 255 - mean) / std)
    expected = module.apply(variables, x, method="tokens")[:, 0]
    np.testing.assert_allclose(module.apply(variables, images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), [(DINOv2(), "small"), (BASE, "base")])
def test_the_constructor_tells_the_two_networks_apart(module, name, tmp_path):
    save_reference(module, tmp_path)
    encoder = dinov2(tmp_path, size=28)
    assert encoder.name == f"dinov2-{name}@28"
    assert encoder.function.width == module.width


def test_a_size_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(InputError, match="size is 96; expected a positive multiple of 14"):
        dinov2("nowhere", size=96)
