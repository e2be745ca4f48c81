"""The folder of a run: whose it is, what a kill or a full disk leaves, and how it resumes."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ecood import flows
from ecood.errors import InputError
from ecood.train import fit, loop
from ecood.train.checkpoints import Checkpoints
from tests.train.toy import CONFIG, MEAN, Stop, stop_at

try:
    import resource
except ImportError:  # Windows
    resource = None

# Rows so long that a checkpoint is larger than the log, and does not compress.
POINTS = np.random.default_rng(0).normal(size=(60, 5000)).astype(np.float32)
TRAIN, HELD_OUT = POINTS[:50], POINTS[50:]


def train(directory, progress=None):
    return fit(MEAN, TRAIN, HELD_OUT, CONFIG, directory, progress=progress)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the result of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(folder)


def assert_same(fitted, other):
    np.testing.assert_array_equal(
        fitted.variables["params"]["mean"], other.variables["params"]["mean"]
    )
    assert [record["step"] for record in fitted.log] == [25, 50, 75]


def steps_logged(folder):
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": MEAN._replace(name="another")}, "holds a run with task = 'the mean of points'"),
        ({"train": HELD_OUT.repeat(5, 0)}, "holds a run with other training images; repeat that"),
        ({"held_out": TRAIN}, "holds a run with other held-out images; "),
        (
            {"config": dataclasses.replace(CONFIG, steps=50)},
            "holds a run with steps = 75 instead of 50",
        ),
        (
            {"config": dataclasses.replace(CONFIG, steps=None, minutes=2.0)},
            "holds a run with steps = 75 instead of none; no minutes instead of 2.0",
        ),
    ],
)
def test_a_directory_of_another_run_is_refused(whole, change, words):
    arguments = {"task": MEAN, "train": TRAIN, "held_out": HELD_OUT, "config": CONFIG} | change
    with pytest.raises(InputError, match=words):
        fit(**arguments, directory=whole[0])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("thesis.tex", "", "is not empty and holds no run"),
        ("run.json", "{}", "holds a run with no task instead of"),
        ("run.json", "{", "run.json is damaged"),
    ],
)
def test_a_directory_of_something_else_is_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_of_a_module_the_attributes_that_differ_are_told(tmp_path):
    wide, narrow = ({"task": repr(flows.Glow((8, 8, 1), width=w))} for w in (96, 16))
    Checkpoints(tmp_path, wide).close()
    with pytest.raises(InputError, match="holds a run with width = 96 instead of width = 16; "):
        Checkpoints(tmp_path, narrow)


def test_of_two_runs_that_start_at_once_one_claims_the_directory(tmp_path, monkeypatch):
    """The other has seen an empty folder, and is late to lock it."""
    check = Checkpoints._check

    def race(self, run):
        found = check(self, run)
        monkeypatch.setattr(Checkpoints, "_check", check)
        Checkpoints(tmp_path / "run", {"task": "a"}).close()
        return found

    monkeypatch.setattr(Checkpoints, "_check", race)
    with pytest.raises(InputError, match="holds a run with task = 'a' instead of 'b'"):
        Checkpoints(tmp_path / "run", {"task": "b"})
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"task": "a"}


def test_a_kill_costs_a_minute_at_most(whole, tmp_path, monkeypatch):
    """Also before the first evaluation, here never."""
    config = dataclasses.replace(CONFIG, eval_every=1000)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Stop):
        fit(MEAN, TRAIN, HELD_OUT, config, tmp_path, progress=stop_at(50))
    seen = []
    fit(
        MEAN, TRAIN, HELD_OUT, config, tmp_path, progress=lambda record: seen.append(record["step"])
    )
    assert seen == [75]


def test_only_one_process_trains_in_a_directory(tmp_path):
    one = Checkpoints(tmp_path / "run", {"task": "a"})
    with pytest.raises(InputError, match="another process is training in"):
        Checkpoints(tmp_path / "run", {"task": "a"})
    one.close()
    Checkpoints(tmp_path / "run", {"task": "a"}).close()


def test_a_kill_between_the_first_line_of_the_log_and_the_first_checkpoint(whole, tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, stop_at(25))
    shutil.rmtree(tmp_path / "checkpoints")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5')
    (tmp_path / ".run.json.x").write_text("")
    assert_same(train(tmp_path), whole[1])
    assert steps_logged(tmp_path) == [25, 50, 75]


def test_a_kill_while_the_directory_was_claimed(tmp_path):
    (tmp_path / ".run.json.x").write_text("{")
    Checkpoints(tmp_path, {"task": "a"}).close()


SCRIPT = """
import sys
from tests.train.test_checkpoints import train
train(sys.argv[1], lambda record: print(record["step"], flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path, delay):
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.strip() == "50":  # the checkpoint of this step may be half-written
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                break
    assert_same(train(tmp_path / "run"), whole[1])


def limit_files(size):
    """No file of this process grows beyond `size` bytes: writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def full_within_a_checkpoint(step, folder, patch):
    if step == 0:
        limit_files(8000)


def full_at_the_log(step, folder, patch):
    if step == 50:
        while not (folder / "checkpoints" / "50").exists():
            time.sleep(0.01)
        limit_files(100)


def full_before_a_checkpoint(step, folder, patch):
    if step == 50:
        usage = shutil.disk_usage(".")._replace(free=1000)
        patch.setattr(shutil, "disk_usage", lambda path: usage)


# Tensorstore's other writes and reads may end after orbax has closed the event loop, and say so.
unraisable = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"
)


@unraisable
@pytest.mark.skipif(resource is None, reason="Windows has no limit on the size of files")
@pytest.mark.parametrize(
    ("fill", "kept"),
    [
        (full_within_a_checkpoint, set()),
        (full_at_the_log, {"25", "50"}),
        (full_before_a_checkpoint, {"25", "50"}),
    ],
)
def test_a_full_disk_stops_the_run_and_it_resumes_to_the_same_bits(whole, fill, kept, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        try:
            with pytest.raises(InputError, match=r"writing to .* failed \(.*\); .*free some space"):
                fill(0, tmp_path, patch)
                train(tmp_path, lambda record: fill(record["step"], tmp_path, patch))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == kept
    assert_same(train(tmp_path), whole[1])
    assert steps_logged(tmp_path) == [25, 50, 75]


@unraisable
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_good(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    for path in (folder / "checkpoints" / "75").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"checkpoints/75 is damaged.*; remove it to"):
        train(folder)
    shutil.rmtree(folder / "checkpoints" / "75")
    assert_same(train(folder), whole[1])
