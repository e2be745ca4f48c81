import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ecood import batches, progress
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


def _toy(loss):
    """One number to learn: what is tested with it is the loop, and it compiles in no time."""
    return Task(
        "toy",
        lambda key, images: {"params": {"w": jax.numpy.float32(3)}},
        loss,
        lambda variables, key, images: jax.numpy.full(len(images), variables["params"]["w"]),
    )


def test_minutes_become_steps():
    toy = _toy(lambda variables, key, images: (variables["params"]["w"] ** 2, {}))
    config = TrainConfig(minutes=0.005, batch_size=16, warmup=10, eval_every=10**6)
    fitted = fit(toy, IMAGES, config)
    assert fitted.steps >= 125 and fitted.steps % 25 == 0
    assert float(fitted.variables["params"]["w"]) < 3


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
