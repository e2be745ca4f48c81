import jax
import numpy as np
import pytest

from ecood import cli, flows, models, weights
from ecood.flows import published
from tests.flows.published.test_glow_pytorch import CHECKPOINTS, EXPECTED

GLOW, HPARAMS = (CHECKPOINTS / f"glow_pytorch_tiny{end}" for end in (".pt", "_hparams.json"))
RESIDUAL = CHECKPOINTS / "residual_flows_tiny.pth"
LOG_PROB = jax.jit(flows.Flow.log_prob)
KEY = jax.random.key(0)


def run(*words):
    return cli.main(["import", *map(str, words)])


def test_a_glow_is_converted_and_told(tmp_path, capsys):
    out = tmp_path / "flow.safetensors"
    assert run("glow-pytorch", GLOW, "--hparams", HPARAMS, "--out", out) == 0
    count = f"{models.size(flows.load(out).variables):,} parameters"
    assert f"{out}: a Glow of 16 x 16 x 3 images, {count}" in capsys.readouterr().out
    log_prob = LOG_PROB(flows.load(out), KEY, EXPECTED["x"])
    np.testing.assert_allclose(log_prob, EXPECTED["log_prob"], rtol=1e-5)
    told = weights.load(out)[1]
    assert told["converted_from"] == "glow-pytorch" and len(told["sha256_of_checkpoint"]) == 64


@pytest.mark.slow
def test_a_residual_flow_is_converted(tmp_path):
    out = tmp_path / "flow.safetensors"
    assert run("residual-flows", RESIDUAL, "--out", out) == 0
    ours, direct = flows.load(out), published.residual_flows(RESIDUAL)
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(LOG_PROB(ours, KEY, x), LOG_PROB(direct, KEY, x))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("glow-pytorch", GLOW), "glow-pytorch needs --hparams"),
        (("residual-flows", RESIDUAL, "--hparams", HPARAMS), "--hparams is for glow-pytorch"),
        (("residual-flows", RESIDUAL, "--image-shape", 8, 8, 3), "--image-shape is for normflows"),
        (("residual-flows", GLOW), "holds no `args` and `ema`"),
        (("glow-pytorch", RESIDUAL, "--hparams", HPARAMS), "is not a Glow of Glow-PyTorch"),
        (("normflows", GLOW), "q0.0.loc is missing"),
        (("normflows", "nowhere.pt"), "nowhere.pt cannot be read"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_nothing_is_left(words, problem, tmp_path, capsys):
    assert run(*words, "--out", tmp_path / "flow.safetensors") == 2
    told = capsys.readouterr().err
    assert problem in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())
