import functools
import json
import pathlib
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import flows, torch_file
from ecood.errors import InputError
from ecood.flows import published
from tests import small, torch_files

CHECKPOINTS = pathlib.Path(__file__).parent / "checkpoints"
TINY, LEGACY = (CHECKPOINTS / f"glow_pytorch_tiny{end}.pt" for end in ("", "_legacy"))
HPARAMS = json.loads((CHECKPOINTS / "glow_pytorch_tiny_hparams.json").read_text())
EXPECTED = np.load(CHECKPOINTS / "glow_pytorch_tiny_expected.npz")
LOG_PROB = jax.jit(flows.Flow.log_prob)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def flow():
    return published.glow_pytorch(TINY, HPARAMS)


@pytest.mark.parametrize("path", [TINY, LEGACY], ids=["zip", "legacy"])
def test_its_density_is_the_references(path):
    flow = published.glow_pytorch(path, CHECKPOINTS / "glow_pytorch_tiny_hparams.json")
    log_prob = LOG_PROB(flow, KEY, EXPECTED["x"])
    np.testing.assert_allclose(log_prob, EXPECTED["log_prob"], rtol=1e-5)
    bits = flows.bits_per_dim(log_prob, flow.image_shape)
    np.testing.assert_allclose(bits, EXPECTED["bits_per_dim"], rtol=1e-5)


def test_its_latent_is_the_references(flow):
    z, _ = jax.jit(flows.Flow.forward_and_log_det)(flow, KEY, EXPECTED["x"])
    expected = EXPECTED["z"].transpose(0, 2, 3, 1)  # of the last level
    params = jax.device_get(flow.variables["params"])
    last = np.asarray(z[:, -expected[0].size :]).reshape(expected.shape)
    last = last * np.exp(params["top_log_scale"]) + params["top_mean"]
    np.testing.assert_allclose(last, expected, atol=1e-4)


def test_it_is_saved_and_read_like_any_flow(flow, tmp_path):
    flows.save(tmp_path / "flow.safetensors", flow)
    again = flows.load(tmp_path / "flow.safetensors")
    x = EXPECTED["x"]
    np.testing.assert_array_equal(LOG_PROB(again, KEY, x), LOG_PROB(flow, KEY, x))


def tensors(**changes) -> dict[str, np.ndarray]:
    found = torch_file.read_tensors(TINY) | changes
    return {name: array for name, array in found.items() if array is not None}


def variant(**hparams) -> tuple[dict, dict[str, np.ndarray]]:
    """Hyper-parameters that differ from the tiny checkpoint's, and random tensors of them."""
    rng = np.random.default_rng(0)
    hparams, found = HPARAMS | hparams, tensors()
    for name, array in list(found.items()):
        if not hparams["learn_top"] and name.startswith("learn_top_fn"):
            del found[name]
        if ".invconv." in name and not (
            hparams["flow_permutation"] == "invconv" and hparams["LU_decomposed"]
        ):
            del found[name]
            if hparams["flow_permutation"] == "invconv" and name.endswith("lower"):
                found[name.replace("lower", "weight")] = rng.normal(size=array.shape)
        if ".block.4." in name and hparams["flow_coupling"] == "additive":
            found[name] = array[: array.shape[0] // 2]
    return hparams, {k: np.ascontiguousarray(v, np.float32) for k, v in found.items()}


def reference_log_prob(hparams: dict, tensors: dict, x: np.ndarray) -> jax.Array:
    """The log-density by the published equations, in float64."""
    with jax.enable_x64(True):
        tensors = {name: array.astype(np.float64) for name, array in tensors.items()}
        return jax.jit(functools.partial(equations, hparams, tensors))(np.float64(x))


def equations(hparams: dict, tensors: dict, x: jax.Array) -> jax.Array:
    """Written down channels first and level by level."""

    def conv(name, x):
        weight = tensors[f"{name}.weight"]
        layout = ("NCHW", "OIHW", "NCHW")
        return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=layout)

    def act_norm(name, x):
        return (x + tensors[f"{name}.bias"]) * np.exp(tensors[f"{name}.logs"])

    def zeros(name, x):
        h = conv(f"{name}.conv", x) + tensors[f"{name}.conv.bias"].reshape(1, -1, 1, 1)
        return h * np.exp(3 * tensors[f"{name}.logs"][None])

    def gaussian(mean, logs, z):
        density = -0.5 * (2 * logs + (z - mean) ** 2 / jnp.exp(2 * logs) + np.log(2 * np.pi))
        return density.sum((1, 2, 3))

    def matrix(name, channels):
        if hparams["flow_permutation"] == "reverse":
            return np.eye(channels)[::-1]
        if not hparams["LU_decomposed"]:
            return tensors[f"{name}.weight"]
        p, lower, upper, signs, logs = (
            tensors[f"{name}.{part}"] for part in ("p", "lower", "upper", "sign_s", "log_s")
        )
        lower, upper = np.tril(lower, -1) + np.eye(channels), np.triu(upper, 1)
        return p @ lower @ (upper + np.diag(signs * np.exp(logs)))

    z, total, layer = x.transpose(0, 3, 1, 2) - 0.5, 0.0, 0
    for level in range(hparams["L"]):
        b, c, h, w = z.shape
        z = z.reshape(b, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4)
        z = z.reshape(b, 4 * c, h // 2, w // 2)
        for _ in range(hparams["K"]):
            layer += 1
            name, pixels = f"flow.layers.{layer}", z.shape[2] * z.shape[3]
            z = act_norm(f"{name}.actnorm", z)
            mixing = matrix(f"{name}.invconv", z.shape[1])
            z = jnp.einsum("ij,bjhw->bihw", mixing, z)
            total += pixels * tensors[f"{name}.actnorm.logs"].sum()
            total += pixels * np.linalg.slogdet(mixing)[1]
            z1, z2 = jnp.split(z, 2, axis=1)
            h = z1
            for i in (0, 2):
                h = jax.nn.relu(
                    act_norm(f"{name}.block.{i}.actnorm", conv(f"{name}.block.{i}.conv", h))
                )
            h = zeros(f"{name}.block.4", h)
            if hparams["flow_coupling"] == "affine":
                scale = jax.nn.sigmoid(h[:, 1::2] + 2)
                z2 = (z2 + h[:, 0::2]) * scale
                total += jnp.log(scale).sum((1, 2, 3))
            else:
                z2 = z2 + h
            z = jnp.concatenate([z1, z2], axis=1)
        layer += 2
        if level < hparams["L"] - 1:
            z, split = jnp.split(z, 2, axis=1)
            h = zeros(f"flow.layers.{layer - 1}.conv", z)
            total += gaussian(h[:, 0::2], h[:, 1::2], split)
    top = tensors["prior_h"]
    if hparams["learn_top"]:
        top = zeros("learn_top_fn", top)
    return total + gaussian(*jnp.split(top, 2, axis=1), z)


def test_the_equations_below_are_the_references():
    log_prob = reference_log_prob(HPARAMS, tensors(), EXPECTED["x"])
    np.testing.assert_allclose(log_prob, EXPECTED["log_prob"], rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"flow_coupling": "additive"},
        {"flow_permutation": "reverse"},
        {"LU_decomposed": False},
        {"learn_top": False},
        {"flow_coupling": "additive", "flow_permutation": "reverse", "learn_top": False},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_variants_have_the_published_density(changes, tmp_path):
    hparams, found = variant(**changes)
    path = torch_files.write(tmp_path / "glow.pt", {"model": found, "optimizer": {"step": 3}})
    log_prob = LOG_PROB(published.glow_pytorch(path, hparams), KEY, EXPECTED["x"])
    expected = reference_log_prob(hparams, found, EXPECTED["x"])
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"K": 4}, r"flow.layers.4.actnorm.bias is missing"),
        ({"K": 2}, r"flow.layers.3.conv.conv.weight is missing"),
        ({"L": 3}, r"prior_h has 48 channels, which 3 levels do not make"),
        ({"hidden_channels": 32}, r"flow.layers.1.block.0.conv.weight has shape \[24, 6, 3, 3\]"),
        ({"flow_coupling": "additive"}, r"flow.layers.1.block.4.conv.weight has shape \[12, 24"),
        ({"flow_permutation": "reverse"}, r"flow.layers.1.invconv.lower is not part of it"),
        ({"LU_decomposed": False}, r"flow.layers.1.invconv.weight is missing"),
        ({"learn_top": False}, r"learn_top_fn.logs is not part of it"),
        ({"flow_permutation": "shuffle"}, r"flow_permutation is 'shuffle'; what can be converted"),
        ({"y_condition": True}, r"y_condition is True; what can be converted is False"),
        ({"K": "3"}, r"K is '3'; expected a whole number, 1 or more"),
        ({"hidden_channels": None}, r"hidden_channels is None"),
    ],
    ids=str,
)
def test_wrong_hyper_parameters_are_refused_by_the_first_difference(changes, problem):
    with pytest.raises(InputError, match=problem) as caught:
        published.glow_pytorch(TINY, HPARAMS | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"flow.layers.2.invconv.log_s": None}, "flow.layers.2.invconv.log_s is missing"),
        ({"prior_h": None}, "prior_h is missing"),
        ({"prior_h": np.ones((1, 48, 4, 4), np.float32)}, "prior_h is not zero"),
        ({"extra": np.zeros(2, np.float32)}, "extra is not part of it"),
        ({"learn_top_fn.logs": np.full((48, 1, 1), np.nan, np.float32)}, "learn_top_fn.logs holds"),
        ({"learn_top_fn.logs": np.zeros((48, 1, 1), np.int64)}, "learn_top_fn.logs holds int64"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_checkpoint_is_refused_by_the_first_difference(changes, problem, tmp_path):
    path = torch_files.write(tmp_path / "glow.pt", tensors(**changes))
    with pytest.raises(InputError, match=problem):
        published.glow_pytorch(path, HPARAMS)


def test_another_architecture_is_refused():
    with pytest.raises(InputError, match="state_dict is a OrderedDict, no tensor"):
        published.glow_pytorch(CHECKPOINTS / "residual_flows_tiny.pth", HPARAMS)


class Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_a_checkpoint_that_calls_is_refused_and_nothing_is_executed(tmp_path):
    path = torch_files.write(tmp_path / "glow.pt", tensors(prior_h=Attack()))
    with pytest.raises(InputError, match="calls __builtin__.exec, and nothing in a file is exec"):
        published.glow_pytorch(path, HPARAMS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.pt cannot be read"):
        published.glow_pytorch(tmp_path / "nowhere.pt", HPARAMS)
    with pytest.raises(InputError, match="nowhere.json cannot be read as JSON"):
        published.glow_pytorch(TINY, tmp_path / "nowhere.json")


def full_size(tmp_path) -> tuple[pathlib.Path, dict]:
    """Random weights of the published size, near the identity."""
    hparams = HPARAMS | {"K": 32, "L": 3, "hidden_channels": 512}
    rng, found, layer, channels, width = np.random.default_rng(0), {}, 0, 3, 512

    def fill(name, *shape, scale=0.05):
        found[name] = np.float32(scale * rng.standard_normal(shape, np.float32))

    def act_norm(name, channels):
        for part in ("bias", "logs"):
            fill(f"{name}.{part}", 1, channels, 1, 1)

    def zeros(name, inputs, outputs):
        fill(f"{name}.conv.weight", outputs, inputs, 3, 3, scale=0.01)
        fill(f"{name}.conv.bias", outputs)
        fill(f"{name}.logs", outputs, 1, 1)

    for level in range(3):
        channels *= 4
        for _ in range(32):
            layer += 1
            name = f"flow.layers.{layer}"
            act_norm(f"{name}.actnorm", channels)
            found[f"{name}.invconv.p"] = np.eye(channels, dtype=np.float32)
            found[f"{name}.invconv.sign_s"] = np.ones(channels, np.float32)
            fill(f"{name}.invconv.lower", channels, channels)
            fill(f"{name}.invconv.upper", channels, channels)
            fill(f"{name}.invconv.log_s", channels)
            fill(f"{name}.block.0.conv.weight", width, channels // 2, 3, 3)
            fill(f"{name}.block.2.conv.weight", width, width, 1, 1)
            for i in (0, 2):
                act_norm(f"{name}.block.{i}.actnorm", width)
            zeros(f"{name}.block.4", width, channels)
        layer += 2
        if level < 2:
            channels //= 2
            zeros(f"flow.layers.{layer - 1}.conv", channels, 2 * channels)
    zeros("learn_top_fn", 2 * channels, 2 * channels)
    found["prior_h"] = np.zeros((1, 2 * channels, 4, 4), np.float32)
    return torch_files.write(tmp_path / "glow.pt", found), hparams


@pytest.mark.slow
def test_the_published_size_converts_in_a_minute_and_scores(tmp_path, capsys):
    path, hparams = full_size(tmp_path)
    started = time.perf_counter()
    flow = published.glow_pytorch(path, hparams)
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB, with all of pytest
    assert flow.image_shape == (32, 32, 3)
    assert 43e6 < sum(leaf.size for leaf in jax.tree.leaves(flow.variables["params"])) < 46e6
    assert seconds < 60 and memory < 3.0
    x = jnp.float32(np.random.default_rng(1).uniform(size=(64, 32, 32, 3)))
    score = jax.jit(flows.Flow.log_prob)
    small.assert_finite(score(flow, KEY, x[:16]))
    started = time.perf_counter()
    for start in range(0, 64, 16):
        small.assert_finite(score(flow, KEY, x[start : start + 16]))
    rate = 64 / (time.perf_counter() - started)
    with capsys.disabled():
        print(f"\nconverted in {seconds:.1f} s, {memory:.2f} GB; scored {rate:.2f} images/s")
