"""An exported scorer is one file that a process without our code runs, with the same scores."""

import dataclasses
import json
import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import encoders, flows
from ecood.batches import BATCH_SIZE
from ecood.errors import InputError
from ecood.score import export
from ecood.splits import remember
from tests import small

# As many as the scorer's own batches have, so that the sums are ordered alike.
IMAGES = np.concatenate([small.images(40, seed=4), 255 - small.images(BATCH_SIZE - 40, seed=5)])
BLOCKED = ("chex", "distrax", "ecood", "flax", "optax", "orbax", "safetensors", "tensorflow")

BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
sys.argv = ["", *sys.argv[1:]]
"""


def documented():
    """The code in the module's own documentation."""
    block = re.search(r"To run it:\n\n((?:    .*\n|\n)+)", export.__doc__).group(1)
    return "\n".join(line[4:] for line in block.splitlines())


def test_a_float64_density_gives_float32_scores_and_can_be_exported(tmp_path):
    with jax.enable_x64(True):
        flow = flows.Flow(
            lambda variables, key, x: -jnp.sum((x - variables[None]) ** 2, axis=(1, 2, 3)),
            np.full(small.SHAPE, 0.3),
        )
        scorer = ecood.score.fit(
            flow, encoders.pixels(), small.split(80, calibration=0.2), noise_strength=0.1
        )
        found = scorer.detect(IMAGES[:3])
        assert {part.dtype for part in found} == {scorer.calibration.dtype} == {np.dtype("f4")}
        scorer.export(tmp_path / "x64.npz")
        again = ecood.score.load_export(tmp_path / "x64.npz")
        np.testing.assert_allclose(again(IMAGES[:3]), found.score, rtol=1e-5)


@pytest.fixture(scope="module")
def scorer():
    flow = small.blank_flow().replace(trained_on=remember(small.images(5, seed=6)))
    # So much noise that the gain varies by more than float32's rounding.
    fitted = ecood.score.fit(flow, small.encoder(), small.images(60), noise_strength=3.0)
    return fitted.calibrate(small.images(30, seed=1))


@pytest.fixture(scope="module")
def path(scorer, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "scorer.npz"
    scorer.export(path)
    return path


def run(path, images):
    with np.load(path) as file:
        program = jax.export.deserialize(bytearray(file["program"]))
        weights = [file[name] for name in file.files if name.startswith("weight_")]
    return jax.jit(program.call)(weights, images)


def test_the_documented_lines_run_in_a_process_without_our_code(scorer, path):
    np.save(path.parent / "images.npy", IMAGES)
    body = documented().replace('"scorer.npz"', "sys.argv[1]")
    body = body.replace("scores = ", "images = np.load(sys.argv[2])\nscores = ")
    end = "np.savez(sys.argv[3], **scores)\n"
    end += f"assert not [m for m in sys.modules if m.split('.')[0] in {BLOCKED}]\n"
    out = path.parent / "out.npz"
    words = ["-c", BLOCKER + body + "\n" + end, path, path.parent / "images.npy", out]
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    found, detection = np.load(out), scorer.detect(IMAGES)
    for name, value in detection._asdict().items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    np.testing.assert_allclose(found["p_value"], scorer.p_value(IMAGES), rtol=1e-6)
    np.testing.assert_array_equal(found["p_value"] <= 0.1, scorer.is_ood(IMAGES, 0.1))


@pytest.mark.parametrize("n", [1, 7])
def test_any_number_of_images(scorer, path, n):
    """What is measured is the same to rounding; the score to rounding in units of its scale."""
    found, expected = run(path, IMAGES[:n]), scorer.detect(IMAGES[:n])
    for name in ("similarity", "noise_scale", "bits", "perturbed_bits", "code_length"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-5)
    rounding = 1e-6 * expected.bits.max() / np.asarray(scorer.state.reference.spread).min()
    np.testing.assert_allclose(found["score"], expected.score, rtol=1e-5, atol=rounding)


def test_the_file_is_plain_arrays_for_all_platforms_and_tells_no_paths(path):
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        program = bytes(file["program"])
    assert about["platforms"] == ["cpu", "cuda", "tpu"] and about["calibration_images"] == 30
    assert jax.export.deserialize(bytearray(program)).platforms == ("cpu", "cuda", "tpu")
    assert re.search(rb"\w\.py\b", program) is None
    assert b"test_export" not in program and b"pytest" not in program
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_the_file_tells_nothing_of_the_images_that_anything_was_made_from(scorer, path):
    with np.load(path) as file:
        weights = [file[name] for name in file.files if name.startswith("weight_")]
    models = [scorer.state.flow.variables, scorer.state.encoder.variables, scorer.state.bank]
    rest = [scorer.state.noise_strength, scorer.state.reference, scorer.calibration]
    assert len(weights) == len(jax.tree.leaves((models, rest)))
    assert not any(array.dtype == np.uint32 for array in weights)


@pytest.mark.slow
def test_your_own_functions_and_a_bank_in_bfloat16_can_be_exported(tmp_path):
    flow = flows.Flow(lambda variables, key, x: -jnp.sum(x**2, axis=(1, 2, 3)), {})
    mine = encoders.encoder(lambda x: x.reshape(x.shape[0], -1).astype("float32"), name="mine")
    fitted = ecood.score.fit(flow, mine, small.images(40), noise_strength=0.1)
    state = fitted.state.replace(bank=fitted.state.bank.astype(jnp.bfloat16))
    fitted = dataclasses.replace(fitted, state=state)
    fitted.export(tmp_path / "scorer.npz", platforms="cpu")
    outputs = run(tmp_path / "scorer.npz", IMAGES)
    assert "p_value" not in outputs
    np.testing.assert_allclose(outputs["score"], fitted(IMAGES), rtol=1e-6)


def test_variables_in_float64_are_exported_as_they_are_computed_with(tmp_path):
    def log_prob(variables, key, x):
        return -jnp.sum((x - variables["mean"]) ** 2, axis=(1, 2, 3)) / variables["scale"]

    flow = flows.Flow(log_prob, {"mean": np.full((1, *small.SHAPE), 0.5), "scale": 0.3})
    fitted = ecood.score.fit(flow, encoders.pixels(), small.images(40), noise_strength=0.1)
    fitted.export(tmp_path / "scorer.npz", platforms="cpu")
    program = ecood.score.load_export(tmp_path / "scorer.npz")
    np.testing.assert_allclose(program(IMAGES), fitted(IMAGES), rtol=1e-6)


def test_functions_of_one_batch_size_are_refused_and_leave_nothing(tmp_path):
    mine = encoders.encoder(lambda x: x.reshape(len(x), -1).astype("float32"), name="mine")
    flow = flows.Flow(lambda variables, key, x: -jnp.sum(x**2, axis=(1, 2, 3)), {})
    scorer = small.scorer(flow, mine)
    with pytest.raises(InputError, match=r"write images\.shape\[0\] instead of len\(images\)"):
        scorer.export(tmp_path / "scorer.npz", platforms="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "platforms", "words"),
    [
        ("scorer.bin", ("cpu",), "expected a file name ending in .npz"),
        ("scorer.npz", ("cpu", "abacus"), r"platforms is \['cpu', 'abacus'\]; expected one or"),
        ("scorer.npz", (), r"platforms is \[\]"),
    ],
)
def test_wrong_paths_and_platforms_are_refused_and_leave_nothing(
    scorer, tmp_path, name, platforms, words
):
    with pytest.raises(InputError, match=words):
        scorer.export(tmp_path / name, platforms)
    assert list(tmp_path.iterdir()) == []
