import dataclasses
import itertools
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import progress
from ecood.errors import InputError
from ecood.train import Task, TrainConfig, fit
from tests.train.toy import CONFIG, HELD_OUT, MEAN, TRAIN, Stop, slope, stop_at


@pytest.fixture(scope="module")
def whole():
    """A run that nothing stopped."""
    return fit(MEAN, TRAIN, HELD_OUT, CONFIG)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_training_finds_the_minimum_and_logs_the_way(tmp_path):
    fitted = fit(MEAN, TRAIN, HELD_OUT, CONFIG, tmp_path / "run")
    mean = np.asarray(fitted.variables["params"]["mean"])
    np.testing.assert_allclose(mean, TRAIN.mean(0), atol=0.15)
    assert fitted.held_out == pytest.approx(np.mean((HELD_OUT - mean) ** 2), rel=1e-5)
    assert fitted.held_out == pytest.approx(min(r["held_out"] for r in fitted.log))
    assert [r["step"] for r in fitted.log] == [25, 50, 75]
    assert fitted.steps == 75
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == fitted.log


def test_the_same_run_twice_has_the_same_bits_and_another_seed_has_others(whole):
    assert_same(whole.variables, fit(MEAN, TRAIN, HELD_OUT, CONFIG).variables)
    other = fit(MEAN, TRAIN, HELD_OUT, dataclasses.replace(CONFIG, seed=1))
    assert np.all(other.variables["params"]["mean"] != whole.variables["params"]["mean"])


def test_an_interrupted_run_resumes_to_the_same_bits(whole, tmp_path):
    seen = []
    for step in (25, 50):
        with pytest.raises(Stop):
            fit(MEAN, TRAIN, HELD_OUT, CONFIG, tmp_path, progress=stop_at(step))
    resumed = fit(
        MEAN, TRAIN, HELD_OUT, CONFIG, tmp_path, progress=lambda r: seen.append(r["step"])
    )
    assert seen in ([75], [50, 75])
    assert_same(whole.variables, resumed.variables)
    assert [r["step"] for r in resumed.log] == [25, 50, 75]
    again = fit(MEAN, TRAIN, HELD_OUT, CONFIG, tmp_path, progress=stop_at(75))
    assert_same(whole.variables, again.variables)


def test_a_run_has_as_many_steps_as_it_was_asked_for(tmp_path):
    """The last segment is a shorter one; what is before it is that of a longer run."""
    config = dataclasses.replace(CONFIG, steps=28)
    with pytest.raises(Stop):
        fit(MEAN, TRAIN, HELD_OUT, config, tmp_path, progress=stop_at(25))
    seen = []
    resumed = fit(MEAN, TRAIN, HELD_OUT, config, tmp_path, progress=seen.append)
    assert [(r["step"], r["steps"]) for r in seen] == [(28, 3)] and resumed.steps == 28
    assert_same(resumed.variables, fit(MEAN, TRAIN, HELD_OUT, config).variables)
    three = fit(MEAN, TRAIN, HELD_OUT, dataclasses.replace(CONFIG, steps=3))
    assert three.steps == 3 and [r["step"] for r in three.log] == [3]


def test_every_epoch_has_each_example_once():
    def loss(variables, key, x):
        seen = variables["seen"]["times"].at[x].add(1)
        return variables["params"]["w"], {"seen": {"times": seen}}

    count = Task(
        "count",
        lambda key, x: {"params": {"w": 0.0}, "seen": {"times": jnp.zeros(190, int)}},
        loss,
        lambda variables, key, x: jnp.full(len(x), variables["params"]["w"]),
    )
    indices = np.arange(200, dtype=np.int16)
    fitted = fit(count, indices[:190], indices[190:], CONFIG)
    times = np.asarray(fitted.variables["seen"]["times"])
    assert times.sum() == 75 * 16
    assert set(times) == {6, 7}  # 75 * 16 / 190 = 6.3


def test_the_rate_warms_up_and_falls_as_half_a_cosine():
    """All gradients are 1, so Adam's steps are the rate, and their sum is how far w has come."""
    config = dataclasses.replace(CONFIG, ema_decay=0.0)
    fitted = fit(slope(), TRAIN, HELD_OUT, config)
    step = np.arange(75)
    cosine = (1 + np.cos(np.pi * np.clip((step - 10) / 65, 0, 1))) / 2
    way = 0.1 * np.sum(np.minimum(1, (step + 1) / 10) * cosine)
    assert 3 - fitted.variables["params"]["w"] == pytest.approx(way, rel=1e-4)


def test_muon_turns_matrices_alone_each_as_far_as_adam_would():
    target = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4)), jnp.float32)
    start = {"kernel": jnp.zeros((2, 6, 4)), "bias": jnp.zeros(3)}

    def loss(variables, key, x):
        params = variables["params"]
        return jnp.sum(params["kernel"] * target) + jnp.sum(params["bias"]), {}

    task = Task(
        "two matrices and a bias",
        lambda key, x: {"params": start},
        loss,
        lambda variables, key, x: jnp.zeros(len(x)),
        lambda params: {name: name == "kernel" for name in params},
    )
    rate = 0.01
    config = TrainConfig(steps=1, batch_size=16, warmup=1, learning_rate=rate, ema_decay=0.0)
    moved = fit(task, TRAIN, HELD_OUT, config).variables["params"]
    np.testing.assert_allclose(moved["bias"], -rate, rtol=1e-3)
    values = np.linalg.svd(np.asarray(moved["kernel"]), compute_uv=False)
    np.testing.assert_allclose(values, rate * 0.2 * np.sqrt(6), rtol=0.4)  # Newton and Schulz's
    u, _, v = np.linalg.svd(np.asarray(target), full_matrices=False)
    alike = np.sum(-(u @ v) * np.asarray(moved["kernel"])) / np.linalg.norm(moved["kernel"])
    assert alike / np.sqrt(8) > 0.97


def test_a_run_that_no_longer_improves_ends():
    rises = slope(evaluate=lambda variables, key, x: jnp.full(len(x), -variables["params"]["w"]))
    fitted = fit(rises, TRAIN, HELD_OUT, dataclasses.replace(CONFIG, patience=1))
    assert fitted.steps == 50
    assert fitted.held_out == fitted.log[0]["held_out"] < fitted.log[1]["held_out"]
    assert -float(fitted.variables["params"]["w"]) == pytest.approx(fitted.held_out)


def test_a_batch_that_is_not_finite_changes_nothing():
    broken = slope(loss=lambda variables, key, x: (jnp.nan * variables["params"]["w"], {}))
    fitted = fit(broken, TRAIN, HELD_OUT, dataclasses.replace(CONFIG, steps=25))
    assert float(fitted.variables["params"]["w"]) == 3
    assert fitted.log[-1]["skipped"] == 1


def test_a_run_that_never_was_finite_is_no_fit():
    nowhere = slope(evaluate=lambda variables, key, x: jnp.full(len(x), jnp.nan))
    with pytest.raises(InputError, match="the held-out value was never finite"):
        fit(nowhere, TRAIN, HELD_OUT, dataclasses.replace(CONFIG, steps=25))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_training_loss_is_shown_as_a_loss(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(progress, "PACE", 0.0)
    with progress.training("training") as show:
        fitted = fit(MEAN, TRAIN, HELD_OUT, CONFIG, progress=show)
    shown, is_ = capsys.readouterr().err, "=" if terminal else " "
    for name, value in (("loss", fitted.log[-1]["loss"]), ("best", fitted.held_out)):
        assert f"{name}{is_}{value:.4g}" in shown
    assert ("\r" in shown) == terminal


def test_a_resumed_run_says_from_where(tmp_path, capsys):
    with pytest.raises(Stop):
        fit(MEAN, TRAIN, HELD_OUT, CONFIG, tmp_path, progress=stop_at(50))
    with progress.training("training") as show:
        fit(MEAN, TRAIN, HELD_OUT, CONFIG, tmp_path, progress=show)
    assert capsys.readouterr().err == "training: resuming from step 50\n"


SLOPE = slope()


@pytest.mark.parametrize(
    ("minutes", "steps", "stop"),
    [
        (1e-9, 125, None),
        (1e-9, 125, 100),
        (0.101, 175, 25),
        (0.101, 175, 150),
        (0.15, 225, None),
        (0.15, 225, 150),
        (1e-9, 75 + 125, 75),  # stopped before the speed was known, so it is measured again
    ],
)
def test_minutes_become_steps(monkeypatch, tmp_path, minutes, steps, stop):
    """A segment takes a second; the total is the same after an interruption, wherever it was."""
    config = TrainConfig(minutes=minutes, batch_size=16, warmup=10, eval_every=25)
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    if stop is not None:
        with pytest.raises(Stop):
            fit(SLOPE, TRAIN, HELD_OUT, config, tmp_path, progress=stop_at(stop))
    fitted = fit(SLOPE, TRAIN, HELD_OUT, config, tmp_path)
    assert fitted.steps == fitted.log[-1]["step"] == steps
    assert float(fitted.variables["params"]["w"]) < 3


def test_as_many_minutes_as_nobody_has_are_as_many_steps_as_can_be_counted(monkeypatch, tmp_path):
    config = TrainConfig(minutes=1e12, batch_size=16, warmup=10, eval_every=25)
    clock, seen = itertools.count(), []
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))

    def stop(record):
        seen.append(record["total_steps"])
        if record["step"] == 200:
            raise Stop

    with pytest.raises(Stop):
        fit(SLOPE, TRAIN, HELD_OUT, config, tmp_path, progress=stop)
    assert 2**31 - 25 <= seen[-1] < 2**31


@pytest.mark.parametrize(
    ("train", "held_out", "words"),
    [
        (TRAIN[:15], HELD_OUT, "15 training examples are given and the batch size is 16"),
        (TRAIN, HELD_OUT[:0], r"held_out is float32 \[0, 3\]; expected two arrays"),
        (TRAIN, HELD_OUT[:, :2], r"train is float32 \[190, 3\] and held_out is float32 \[10, 2\]"),
        (TRAIN, HELD_OUT.astype(np.uint8), r"held_out is uint8 \[10, 3\]; expected two arrays"),
    ],
)
def test_arrays_that_nothing_can_be_trained_on_are_refused(tmp_path, train, held_out, words):
    with pytest.raises(InputError, match=words):
        fit(MEAN, train, held_out, CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_built_claims_no_directory(tmp_path):
    def init(key, points):
        raise TypeError("no such layer")

    with pytest.raises(TypeError, match="no such layer"):
        fit(MEAN._replace(init=init), TRAIN, HELD_OUT, CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("steps", 10.5),
        ("steps", True),
        ("eval_every", 0),
        ("patience", 0),
        ("warmup", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", -1.0),
        ("learning_rate", "fast"),
        ("clip_norm", 0.0),
        ("ema_decay", 1.0),
        ("ema_decay", "slow"),
        ("seed", -1),
        ("steps", 2**31),
    ],
)
def test_senseless_settings_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} is {value!r}; expected"):
        TrainConfig(**{"steps": 25} | {name: value})


def test_senseless_lengths_are_refused():
    with pytest.raises(InputError, match="either steps or minutes"):
        TrainConfig()
    with pytest.raises(InputError, match="steps is -1; expected a whole number, 1 or more"):
        TrainConfig(steps=-1)
