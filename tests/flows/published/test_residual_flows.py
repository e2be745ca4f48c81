import math
import pathlib
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import flows, torch_file
from ecood.errors import InputError
from ecood.flows import lipschitz, published
from tests import small, torch_files

CHECKPOINTS = pathlib.Path(__file__).parent / "checkpoints"
TINY, LEGACY = (CHECKPOINTS / f"residual_flows_tiny{end}.pth" for end in ("", "_legacy"))
EXPECTED = np.load(CHECKPOINTS / "residual_flows_tiny_expected.npz")
X = jnp.float32(EXPECTED["x"])
LOG_PROB = jax.jit(flows.Flow.log_prob)
FORWARD = jax.jit(flows.Flow.forward_and_log_det)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def flow():
    return published.residual_flows(TINY)


def with_probes(flow, probes):
    return flow.replace(density=flow.density.copy(probes=probes))


def published_order(latent: np.ndarray) -> np.ndarray:
    """The reference's latents [B, 192] in our order: its squeeze is [C, 2, 2] major."""
    numbers = np.arange(192).reshape(3, 8, 8)
    theirs = numbers.reshape(3, 4, 2, 4, 2).transpose(0, 2, 4, 1, 3).ravel()
    ours = numbers.transpose(1, 2, 0).reshape(4, 2, 4, 2, 3).transpose(0, 2, 1, 3, 4).ravel()
    return latent[:, np.argsort(theirs)[ours]]


@pytest.mark.parametrize("path", [TINY, LEGACY], ids=["zip", "legacy"])
def test_its_latent_and_its_exact_density_are_the_references(path):
    exact = with_probes(published.residual_flows(path), 192)  # no estimate: as many as dimensions
    z, log_det = FORWARD(exact, KEY, X)
    np.testing.assert_allclose(z, published_order(EXPECTED["z"]), atol=1e-4)
    np.testing.assert_allclose(log_det, EXPECTED["log_det"], rtol=1e-5)
    log_prob = LOG_PROB(exact, KEY, X)
    np.testing.assert_allclose(log_prob, EXPECTED["log_prob"], rtol=1e-4)
    bits = flows.bits_per_dim(log_prob, exact.image_shape)
    np.testing.assert_allclose(bits, EXPECTED["bits_per_dim"], rtol=1e-4)


@pytest.mark.slow
def test_its_estimates_are_unbiased(flow):
    keys = jax.random.split(jax.random.key(1), 150)
    estimate = jax.jit(lambda keys: jax.lax.map(lambda key: FORWARD(flow, key, X)[1], keys))
    drawn = np.asarray(estimate(keys), np.float64)
    error = drawn.std(0, ddof=1) / math.sqrt(len(keys))
    assert np.all(error < 0.3) and np.all(error > 0)
    np.testing.assert_array_less(np.abs(drawn.mean(0) - EXPECTED["log_det"]), 3 * error)


@pytest.mark.slow
def test_many_probes_come_close(flow):
    log_det = FORWARD(with_probes(flow, 150), KEY, X)[1]
    np.testing.assert_allclose(log_det, EXPECTED["log_det"], atol=0.5)


@pytest.mark.slow
def test_it_is_inverted_saved_and_read_like_any_flow(flow, tmp_path):
    z, _ = FORWARD(flow, KEY, X)
    variables = flow.variables
    back, _ = jax.jit(
        lambda z: flow.density.apply(
            variables, z, method="inverse_and_log_det", rngs={"probe": KEY}
        )
    )(z)
    np.testing.assert_allclose(back, X, atol=1e-4)
    flows.save(tmp_path / "flow.safetensors", flow)
    again = flows.load(tmp_path / "flow.safetensors")
    assert again.density == flow.density
    np.testing.assert_array_equal(LOG_PROB(again, KEY, X), LOG_PROB(flow, KEY, X))


def test_a_settled_flow_refuses_to_be_trained(flow):
    with pytest.raises(InputError, match="settled, so that it scores and cannot be trained"):
        flow.density.apply(flow.variables, X, train=True, method="log_prob", rngs={"probe": KEY})


def test_its_kernels_have_the_norm_that_a_flow_in_training_would_give_them(flow):
    steps = flow.variables["params"]["level_1"]["net"]
    for name, side in (("conv_0", 4), ("conv_2", 4)):
        kernel = steps[name]["kernel"][1]
        shape = (4, side, side, kernel.shape[2])
        vectors = jax.random.normal(KEY, shape)
        norm, _ = jax.jit(lipschitz.power_iteration)(kernel, vectors, 500)
        assert float(norm) <= 0.98 * (1 + 1e-4)


def checkpoint(changes=None, options=None) -> dict:
    """The tiny checkpoint as a tree of dicts, with other tensors or options."""

    def take(tree):
        averaged = {name: t.array() for name, t in tree["ema"].shadow_params.items()}
        return vars(tree["args"]), averaged

    args, averaged = torch_file.read(TINY, take)
    averaged = {k: v for k, v in (averaged | (changes or {})).items() if v is not None}
    return {"args": args | (options or {}), "ema": {"shadow_params": averaged}}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"kernels": "3-3-3"}, "trained with kernels '3-3-3'; what can be converted is '3-1-3'"),
        ({"act": "elu"}, "act 'elu'; what can be converted is 'swish'"),
        ({"factor_out": True}, "factor_out True"),
        ({"vnorms": "222f"}, "vnorms '222f'"),
        ({"nbits": 5}, "nbits 5"),
        ({"data": "celebahq"}, "trained on 'celebahq'; what can be converted is cifar10"),
        ({"nblocks": "2-3"}, "nblocks 2-3"),
        ({"nblocks": None}, "does not say its sizes"),
        ({"nblocks": "3-3"}, "transforms.0.chain.6.nnet.1.weight is missing"),
        ({"nblocks": "2"}, r"transforms.0.chain.6.nnet.nnet.1.weight is missing"),
        (
            {"idim": 32},
            r"chain.2.nnet.0.weight has shape \[16, 3, 3, 3\], expected \[32, 3, 3, 3\]",
        ),
        ({"fc_end": False}, "transforms.1.chain.4.nnet.nnet.0.beta is not part of it"),
        ({"data": "mnist"}, r"transforms.0.chain.1.bias has shape \[3\], expected \[1\]"),
        ({"imagesize": 16}, r"transforms.1.chain.4.nnet.nnet.1.weight has shape \[12, 192\]"),
    ],
    ids=str,
)
def test_another_architecture_is_refused_by_its_option(options, problem, tmp_path):
    path = torch_files.write(tmp_path / "flow.pth", checkpoint(options=options))
    with pytest.raises(InputError, match=problem) as caught:
        published.residual_flows(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"transforms.1.chain.0.nnet.2.beta": None}, "transforms.1.chain.0.nnet.2.beta is missing"),
        ({"logit_layer.weight": np.zeros(3, np.float32)}, "logit_layer.weight is not part of it"),
    ],
    ids=["missing", "unknown"],
)
def test_other_tensors_are_refused_by_the_first_difference(changes, problem, tmp_path):
    path = torch_files.write(tmp_path / "flow.pth", checkpoint(changes))
    with pytest.raises(InputError, match=problem):
        published.residual_flows(path)


def test_a_checkpoint_of_another_program_is_refused():
    with pytest.raises(InputError, match="holds no `args` and `ema`"):
        published.residual_flows(CHECKPOINTS / "glow_pytorch_tiny.pt")


class Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_a_checkpoint_that_calls_is_refused_and_nothing_is_executed(tmp_path):
    path = torch_files.write(tmp_path / "flow.pth", checkpoint() | {"ema": Attack()})
    with pytest.raises(InputError, match="calls __builtin__.exec, and nothing in a file is exec"):
        published.residual_flows(path)


def full_size(tmp_path) -> pathlib.Path:
    """Random weights of cifar10_resflow_16-16-16."""
    rng, found, channels = np.random.default_rng(0), {}, 3

    def fill(name, *shape, scale=0.05):
        found[name] = np.float32(scale * rng.standard_normal(shape, np.float32))

    def act_norm(name, channels):
        fill(f"{name}.weight", channels)
        fill(f"{name}.bias", channels)

    for level in range(3):
        chain, start = f"transforms.{level}.chain", 2 if level == 0 else 0
        if level == 0:
            act_norm(f"{chain}.1", channels)
        dense = 4 if level == 2 else 0
        for block in range(16 + dense):
            place, full = start + 2 * block, block < 16
            net = f"{chain}.{place}.nnet" + ("" if full else ".nnet")
            ends, width = (channels, 512) if full else (64 * channels, 128)
            first = int(level > 0 or block > 0)
            sizes = [(width, ends, 3), (width, width, 1), (ends, width, 3)]
            for i, (outputs, inputs, k) in enumerate(sizes):
                if i or first:
                    fill(f"{net}.{2 * i + first - 1}.beta", 1)
                fill(f"{net}.{2 * i + first}.weight", outputs, inputs, *((k, k) if full else ()))
                fill(f"{net}.{2 * i + first}.bias", outputs)
            act_norm(f"{chain}.{place + 1}" + ("" if full else ".fc_module"), ends)
        channels *= 4
    options = {"imagesize": 32, "nblocks": "16-16-16", "idim": 512, "fc_idim": 128}
    tree = checkpoint(options=options)
    return torch_files.write(
        tmp_path / "flow.pth", {"args": tree["args"], "ema": {"shadow_params": found}}
    )


@pytest.mark.slow
def test_the_published_size_converts_in_three_minutes_and_scores(tmp_path, capsys):
    path = full_size(tmp_path)
    started = time.perf_counter()
    flow = published.residual_flows(path)
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB, with all of pytest
    assert flow.image_shape == (32, 32, 3)
    x = jnp.float32(np.random.default_rng(1).uniform(size=(4, 32, 32, 3)))
    small.assert_finite(LOG_PROB(flow, KEY, x))
    started = time.perf_counter()
    small.assert_finite(LOG_PROB(flow, jax.random.key(1), x))
    rate = len(x) / (time.perf_counter() - started)
    with capsys.disabled():
        print(f"\nconverted in {seconds:.1f} s, {memory:.2f} GB; scored {rate:.3f} images/s")
    assert seconds < 180 and memory < 3.0
