import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ecood import batches, progress, train
from ecood.checkpoints import Checkpoints
from ecood.errors import InputError
from ecood.flows import Glow
from ecood.images import hold_out
from ecood.tasks import Task, encoder_task, flow_task
from ecood.train import TrainConfig, fit, fit_flow
from tests import small

SHAPE = (8, 8, 1)
IMAGES = small.images(200, shape=SHAPE)
MODULE = Glow(SHAPE, depth=1, levels=1, width=4)
TASK = flow_task(MODULE)  # one task and one CONFIG: compiled once for all runs of this file
CONFIG = TrainConfig(steps=75, batch_size=16, warmup=10, eval_every=25)


def _equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_training_lowers_the_held_out_bits_and_logs_them(tmp_path):
    fitted = fit(TASK, IMAGES, CONFIG, tmp_path / "run")
    assert [r["step"] for r in fitted.log] == [25, 50, 75]
    assert fitted.log[-1]["held_out"] < fitted.log[0]["held_out"]
    assert fitted.held_out == pytest.approx(min(r["held_out"] for r in fitted.log))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [25, 50, 75]


def test_a_training_loss_is_shown_as_a_loss_and_not_as_bits_per_dim(capsys, tmp_path):
    """With the Neumann gradient it is a draw of an estimate; only evaluation gives bits/dim."""
    with progress.training("training") as show:
        fitted = fit(TASK, IMAGES, CONFIG, tmp_path, progress=show)
    shown = capsys.readouterr().err
    assert f"loss={fitted.log[-1]['loss']:.4g}" in shown and f"best={fitted.held_out:.4g}" in shown
    assert "bits" not in shown and "bits" not in (tmp_path / "log.jsonl").read_text()
    values = batches.map_images(
        TASK.evaluate, fitted.variables, jax.random.key(0), images=hold_out(IMAGES)[1]
    )
    assert fitted.held_out == pytest.approx(float(np.mean(values)), rel=1e-6)


def test_the_same_run_twice_has_the_same_bits():
    runs = [fit(TASK, IMAGES, CONFIG).variables for _ in range(2)]
    _equal(*runs)


class _Stop(Exception):
    pass


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path):
    whole = fit(TASK, IMAGES, CONFIG)

    def stop(record):
        if record["step"] == 50:
            raise _Stop

    with pytest.raises(_Stop):
        fit(TASK, IMAGES, CONFIG, tmp_path, progress=stop)
    seen = []
    resumed = fit(TASK, IMAGES, CONFIG, tmp_path, progress=lambda r: seen.append(r["step"]))
    assert seen == [75] or seen == [50, 75]
    _equal(whole.variables, resumed.variables)
    assert [r["step"] for r in resumed.log] == [25, 50, 75]
    again = fit(TASK, IMAGES, CONFIG, tmp_path)
    _equal(whole.variables, again.variables)


SCRIPT = """
import sys
from ecood.train import fit
from tests.test_train import CONFIG, IMAGES, TASK
fit(TASK, IMAGES, CONFIG, sys.argv[1], progress=lambda r: print(r["step"], flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, delay):
    whole = fit(TASK, IMAGES, CONFIG)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.strip() == "50":  # the checkpoint of this step may be half-written
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                break
    resumed = fit(TASK, IMAGES, CONFIG, tmp_path / "run")
    assert resumed.steps == 75
    _equal(whole.variables, resumed.variables)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": flow_task(Glow(SHAPE, depth=3, levels=1, width=4))}, "holds a run with task"),
        ({"task": flow_task(MODULE, flip=True)}, "holds a run with task .*, mirrored'"),
        ({"images": small.images(200, seed=1, shape=SHAPE)}, "holds a run with images"),
        ({"config": TrainConfig(steps=50, batch_size=16, warmup=10)}, "holds a run with steps"),
    ],
)
def test_a_directory_of_another_run_is_refused(tmp_path, change, words):
    arguments = {"task": TASK, "images": IMAGES, "config": CONFIG}
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run with task = None"):
        fit(**arguments, directory=tmp_path)
    (tmp_path / "run.json").unlink()

    def stop(record):
        raise _Stop

    with pytest.raises(_Stop):
        fit(**arguments, directory=tmp_path, progress=stop)
    with pytest.raises(InputError, match=words):
        fit(**arguments | change, directory=tmp_path)


def test_only_one_process_trains_in_a_directory(tmp_path):
    one = Checkpoints(tmp_path / "run", {"task": "a"})
    with pytest.raises(InputError, match="another process is training in"):
        Checkpoints(tmp_path / "run", {"task": "a"})
    one.close()
    Checkpoints(tmp_path / "run", {"task": "a"}).close()


def test_a_directory_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        fit(TASK, IMAGES, CONFIG, tmp_path)


def test_too_few_images_and_senseless_lengths_are_refused():
    with pytest.raises(InputError, match="there are 19 training images and the batch size is 64"):
        fit_flow(MODULE, IMAGES[:20], TrainConfig(steps=25))
    with pytest.raises(InputError, match="either steps or minutes"):
        TrainConfig()
    with pytest.raises(InputError, match="training for -1 is no training"):
        TrainConfig(steps=-1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("eval_every", 0),
        ("patience", 0),
        ("warmup", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", -1.0),
        ("clip_norm", 0.0),
        ("ema_decay", 1.0),
        ("seed", -1),
        ("steps", 2**31),
    ],
)
def test_senseless_settings_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} is {value}; expected"):
        TrainConfig(**{"steps": 25} | {name: value})


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES / np.float32(255), "images is float32"),
        (IMAGES[..., 0], r"images has shape \[200, 8, 8\]"),
        (small.images(40, shape=(16, 16, 1)), r"this model expects uint8 \[N, 8, 8, 1\]"),
    ],
)
def test_what_are_no_images_of_the_flow_is_refused(tmp_path, images, words):
    with pytest.raises(InputError, match=words):
        fit_flow(MODULE, images, CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_built_claims_no_directory(tmp_path):
    def init(key, images):
        raise TypeError("no such layer")

    with pytest.raises(TypeError, match="no such layer"):
        fit(TASK._replace(init=init), IMAGES, CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_kill_between_the_first_line_of_the_log_and_the_first_checkpoint(tmp_path):
    toy = _toy(lambda variables, key, images: (variables["params"]["w"] ** 2, {}))

    def stop(record):
        raise _Stop

    with pytest.raises(_Stop):
        fit(toy, IMAGES, CONFIG, tmp_path, progress=stop)
    shutil.rmtree(tmp_path / "checkpoints")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5')
    (tmp_path / ".run.json.x").write_text("")
    assert [record["step"] for record in fit(toy, IMAGES, CONFIG, tmp_path).log] == [25, 50, 75]
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [25, 50, 75]


def test_a_kill_while_the_directory_was_claimed(tmp_path):
    (tmp_path / ".run.json.x").write_text("{")
    Checkpoints(tmp_path, {"task": "a"}).close()


def test_the_same_module_again_is_the_same_task():
    assert flow_task(Glow(SHAPE, depth=1, levels=1, width=4)) is TASK


def _toy(loss):
    """One number to learn: what is tested with it is the loop, and it compiles in no time."""
    return Task(
        "toy",
        lambda key, images: {"params": {"w": jax.numpy.float32(3)}},
        loss,
        lambda variables, key, images: jax.numpy.full(len(images), variables["params"]["w"]),
    )


@pytest.mark.parametrize("stop_at", [None, 25, 75, 100, 150])
@pytest.mark.parametrize(("minutes", "steps"), [(1e-9, 125), (0.101, 25 * 7), (0.15, 25 * 9)])
def test_minutes_become_steps(monkeypatch, tmp_path, minutes, steps, stop_at):
    """A segment takes a second; the total is the same after an interruption, wherever it was."""
    toy = _toy(lambda variables, key, images: (variables["params"]["w"] ** 2, {}))
    config = TrainConfig(minutes=minutes, batch_size=16, warmup=10, eval_every=25)
    clock = itertools.count()
    monkeypatch.setattr(train.time, "perf_counter", lambda: next(clock))

    def stop(record):
        if record["step"] == stop_at:
            raise _Stop

    if stop_at is not None and stop_at < steps:
        with pytest.raises(_Stop):
            fit(toy, IMAGES, config, tmp_path, progress=stop)
    fitted = fit(toy, IMAGES, config, tmp_path)
    assert float(fitted.variables["params"]["w"]) < 3
    assert fitted.log[-1]["held_out"] is not None
    late = stop_at is not None and stop_at < 100 and steps < stop_at + 125
    assert fitted.steps == (stop_at + 125 if late else steps)


def test_a_run_that_never_was_finite_is_no_fit():
    toy = _toy(lambda variables, key, images: (variables["params"]["w"], {}))
    nowhere = toy._replace(
        evaluate=lambda variables, key, images: jax.numpy.full(len(images), jax.numpy.nan)
    )
    with pytest.raises(InputError, match="the held-out value was never finite"):
        fit(nowhere, IMAGES, CONFIG)


def test_a_batch_that_is_not_finite_changes_nothing():
    def loss(variables, key, images):
        bad = images[0, 0, 0, 0] < 250
        return jax.numpy.where(bad, jax.numpy.nan, 1.0) * variables["params"]["w"], {}

    fitted = fit(_toy(loss), IMAGES, TrainConfig(steps=25, batch_size=8, eval_every=25))
    assert float(fitted.variables["params"]["w"]) == 3
    assert fitted.log[-1]["skipped"] == 1


def test_the_encoders_loss_falls():
    from ecood.encoders import Compact

    module = Compact(channels=1, width=16, bottleneck=8, blocks=1, features=16, projection=8)
    config = TrainConfig(steps=75, batch_size=32, warmup=10, eval_every=25, learning_rate=3e-3)
    fitted = fit(encoder_task(module), IMAGES, config)
    assert fitted.log[-1]["loss"] < fitted.log[0]["loss"]
