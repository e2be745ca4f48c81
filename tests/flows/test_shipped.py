"""The shipped flows: they load by name, are as small as promised, and their cards are true."""

import functools
import json
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from ecood import data, encoders, flows, models, programs
from ecood.batches import map_images
from ecood.errors import InputError
from ecood.images import dequantise
from ecood.train import flow_task
from tests import small

DIRECTORIES = sorted(flows.PRETRAINED.iterdir())


def test_every_folder_holds_a_flow_and_a_card():
    assert [folder.name for folder in DIRECTORIES] == flows.shipped()
    for folder in DIRECTORIES:
        assert (folder / "README.md").exists()
        for file in folder.glob("*.safetensors"):
            assert file.stat().st_size <= 6_000_000, file


@pytest.mark.parametrize("name", flows.shipped())
def test_they_load_by_name_and_a_path_of_that_name_comes_first(name, tmp_path, monkeypatch):
    by_name = flows.load(name)
    chex.assert_trees_all_equal(
        by_name.variables, flows.load(flows.PRETRAINED / name / "flow.safetensors").variables
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=name):
        flows.load(name)


@pytest.mark.parametrize("folder", DIRECTORIES, ids=lambda folder: folder.name)
def test_what_is_installed_fits_and_is_not_checked_at_each_load(folder, tmp_path, monkeypatch):
    assert programs.name("fits") is None  # no file says that it was checked before
    for name, load in (("flow", flows.load), ("encoder", encoders.load)):
        file = folder / f"{name}.safetensors"
        if file.exists():
            load(shutil.copy(file, tmp_path))  # elsewhere it is checked
            with monkeypatch.context() as patched:
                patched.setattr(models, "template", None)
                load(file)


def test_no_file_tells_of_the_machine_that_it_was_made_on():
    for file in flows.PRETRAINED.glob("*/*.safetensors"):
        with safetensors.safe_open(file, "numpy") as opened:
            told = json.dumps(opened.metadata() or {})
        assert not re.search(r"[\s\"']~?/\w", told), (file, told)


@pytest.mark.slow  # a residual flow evaluates exact terms
@pytest.mark.parametrize("name", [n for n in flows.shipped() if n.startswith("fashion_mnist")])
def test_the_bits_of_the_card_are_those_of_the_embedded_test_images(name):
    flow = flows.load(name)
    images = data.load_images("embedded", "fashion_mnist", "test")
    evaluate = flow_task(flow.density).evaluate
    bits = map_images(evaluate, flow.variables, jax.random.key(0), images=images)
    card = (flows.PRETRAINED / name / "README.md").read_text()
    promised = float(re.search(r"([\d.]+) on the\s+2,000\s+test\s+images", card).group(1))
    assert np.mean(bits) == pytest.approx(promised, abs=2e-3)


GREY = ("fashion_mnist", "mnist")  # a third of their samples were not finite


@pytest.mark.parametrize("name", GREY)
def test_samples_are_finite_and_a_lower_temperature_keeps_them_near_images(name):
    flow = flows.load(name)
    draw = jax.jit(functools.partial(flow.density.apply, method="sample"), static_argnums=2)
    deviations = []
    for temperature in (1.0, 0.5):
        x = np.asarray(draw(flow.variables, jax.random.key(0), 64, temperature))
        small.assert_finite(x)
        deviations.append(np.median(x.std((1, 2, 3))))
    assert np.all((x > -0.5) & (x < 1.5))
    assert deviations[1] < 0.8 * deviations[0]


@functools.partial(jax.jit, static_argnums=0)
def there_and_back(density, variables, x):
    z, _ = density.apply(variables, x, method="forward_and_log_det")
    return density.apply(variables, z, method="inverse_and_log_det")


@pytest.mark.parametrize("name", GREY)
@pytest.mark.parametrize(
    ("dtype", "most", "error"), [(jnp.float32, 1e-3, 1e-3), (jnp.bfloat16, 0.05, 0.2)]
)
def test_the_inverse_is_exact_at_images_and_finite_at_noisy_ones(name, dtype, most, error):
    """Up to rounding: `most` is of 999 pixels of 1,000, whatever units a CPU has for bfloat16."""
    flow = flows.load(name)
    density = flow.density.clone(dtype=dtype)
    images = data.load_images("embedded", name, "test", limit=16)
    x = dequantise(jax.random.key(0), images)
    noise = jax.random.normal(jax.random.key(1), x.shape)
    for strength in (0.0, 0.01, 0.1, 0.3):
        noisy = x + strength * noise
        back, log_det = there_and_back(density, flow.variables, noisy)
        small.assert_finite(back)
        small.assert_finite(log_det)
        if strength < 0.1:  # beyond, float32 does not hold what the scales have shrunk
            np.testing.assert_allclose(back, noisy, atol=error)
            assert np.quantile(np.abs(back - noisy), 0.999) < most
