"""What stops a run stops it in one sentence and loses nothing; the same command resumes."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import pytest

from ecood import flows, weights
from ecood.checkpoints import Checkpoints
from ecood.errors import InputError
from experiments import report, train_flow
from tests import small

try:
    import resource
except ImportError:  # Windows
    resource = None

SHAPE = (8, 8, 1)
IMAGES = small.images(200, shape=SHAPE)
TINY = ("--depth", "1", "--levels", "1", "--width", "4", "--batch-size", "16")
# Evaluated and saved at steps 250 and 275.
RUN = (*TINY, "--name", "noise", "--steps", "275", "--dtype", "bfloat16")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys):
    """`command(*words)`, as from the shell."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["train_flow", *map(str, words)])
        try:
            report.main(train_flow.run, train_flow.build_parser())
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        return Ended(code, *capsys.readouterr())

    return command


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of images."""
    path = tmp_path_factory.mktemp("source") / "noise.npz"
    np.savez(path, noise_train=IMAGES, noise_test=small.images(40, 1, SHAPE))
    return path


@pytest.fixture
def finished(command, source, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.getbasetemp() / "finished"
    if not folder.exists():
        assert command("--data", source, *RUN, "--out", folder).code == 0
    return folder


def contents(folder):
    """What is in all files of a folder."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def assert_same_flow(one, other):
    trees = [weights.load(folder / "flow.safetensors")[0] for folder in (one, other)]
    jax.tree.map(np.testing.assert_array_equal, *trees)


REFUSALS = {
    "a wrong name": (["--data", "embedded", "--name", "cats"], r"no cats among"),
    "a wrong name in an archive": (
        ["--data", "SOURCE", "--name", "cats"],
        r"holds the keys noise_train, noise_test; expected cats_train or train",
    ),
    "an empty directory": (
        ["--data", "EMPTY", "--name", "noise"],
        r"holds no images of noise, split train",
    ),
    "no such directory": (["--data", "EMPTY/none", "--name", "noise"], r"none is not there"),
    "a folder of something else": (
        ["--data", "SOURCE", *RUN, "--out", "THESIS"],
        r"is not empty and holds no run",
    ),
    "another architecture": (
        ["--data", "SOURCE", *RUN, "--width", "8", "--out", "OUT"],
        r"holds a run with task = .*width = 4.* and this one has .*width = 8.*another directory",
    ),
    "another precision": (
        ["--data", "SOURCE", *RUN, "--dtype", "float32", "--out", "OUT"],
        r"holds a run with task = ",
    ),
    "another length": (
        ["--data", "SOURCE", *RUN, "--steps", "300", "--out", "OUT"],
        r"holds a run with steps = 275, and this one has 300",
    ),
    "no steps": (["--data", "SOURCE", *RUN, "--steps", "0"], r"training for 0 is no training"),
    "too large a batch": (
        ["--data", "SOURCE", *RUN, "--batch-size", "512"],
        r"190 training images and the batch size is 512",
    ),
    "a precision it does not know": (
        ["--data", "SOURCE", *RUN, "--flow", "ResidualFlow"],
        r"ResidualFlow has no attribute dtype; leave --dtype bfloat16 out or choose another",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_command_is_refused_in_one_sentence_and_changes_nothing(
    name, command, source, finished, tmp_path
):
    words, sentence = REFUSALS[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "thesis" / "run").mkdir(parents=True)
    (tmp_path / "thesis" / "run" / "thesis.tex").write_text("")
    paths = {"SOURCE": source, "OUT": finished, "EMPTY": tmp_path / "empty"}
    paths["THESIS"] = tmp_path / "thesis"
    words = [
        str(functools.reduce(lambda w, p: w.replace(p, str(paths[p])), paths, w)) for w in words
    ]
    if "--out" not in words:
        words += ["--out", str(tmp_path / "new")]
    before = contents(finished), contents(tmp_path)
    ended = command(*words)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert re.match(rf"python -m experiments.train_flow: .*{sentence}", ended.err.splitlines()[-1])
    assert (contents(finished), contents(tmp_path)) == before


def limit_files(size):
    """No file of this process grows beyond `size` bytes: writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, UNLIMITED))


UNLIMITED = resource.getrlimit(resource.RLIMIT_FSIZE)[1] if resource else None


def full_before_a_checkpoint(monkeypatch):
    """The system says that nothing is free."""

    def save(self, step, state):
        if step == 275:
            usage = shutil.disk_usage(".")._replace(free=1000)
            monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        SAVE(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", save)


def full_within_a_checkpoint(monkeypatch):
    """It says so only when a part is written: what tensorstore raises then, behind our back."""

    def save(self, step, state):
        if step == 275:
            self._manager.wait_until_finished()
            really = self._manager.wait_until_finished
            steps = iter([fail, really, really])
            monkeypatch.setattr(self._manager, "wait_until_finished", lambda: next(steps)())
        else:
            SAVE(self, step, state)

    def fail():
        raise ValueError("RESOURCE_EXHAUSTED: Error writing local file [os_error_code='28']")

    monkeypatch.setattr(Checkpoints, "save", save)


def full_at_the_log(monkeypatch):
    def append_log(self, record):
        if record["step"] == 275:
            self._manager.wait_until_finished()
            limit_files(100)
        APPEND_LOG(self, record)

    monkeypatch.setattr(Checkpoints, "append_log", append_log)


def full_at_the_flow(monkeypatch):
    def save(*arguments):
        limit_files(1000)
        SAVE_FLOW(*arguments)

    monkeypatch.setattr(flows, "save", save)


SAVE, APPEND_LOG, SAVE_FLOW = Checkpoints.save, Checkpoints.append_log, flows.save
DISKS = [full_before_a_checkpoint, full_within_a_checkpoint, full_at_the_log, full_at_the_flow]


@pytest.mark.skipif(resource is None, reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("fill", DISKS)
def test_a_full_disk_stops_the_run_and_it_resumes_to_the_same_bits(
    fill, command, source, finished, monkeypatch, tmp_path
):
    words = ("--data", source, *RUN, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        fill(patch)
        try:
            ended = command(*words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
    assert ended.code == 2
    assert re.search(
        r"^python -m .* failed \(.*\); .*free some space.*\.$", ended.err.splitlines()[-1]
    )
    left = {path.name for path in (tmp_path / "run" / "run" / "checkpoints").iterdir()}
    assert left == ({"250", "275"} if fill is full_at_the_flow else {"250"})
    assert not (tmp_path / "run" / "flow.safetensors").exists()
    assert command(*words).code == 0
    assert_same_flow(tmp_path / "run", finished)
    log = (tmp_path / "run" / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [250, 275]


FULL = """
import runpy
from tests.experiments.test_train_flow import limit_files
limit_files(4000)
runpy.run_module("experiments.train_flow", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(resource is None, reason="Windows has no limit on the size of files")
def test_the_command_ends_in_one_sentence_if_the_disk_fills_within_a_checkpoint(
    command, source, tmp_path
):
    """As above without a stand-in: tensorstore's own error, from a thread of orbax."""
    words = ("--data", source, *RUN, "--steps", "25", "--out", tmp_path / "run")
    ended = subprocess.run(
        [sys.executable, "-c", FULL, *map(str, words)],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2, ended.stderr
    assert re.match(r"python -m .* failed \(File too large\); ", ended.stderr.splitlines()[-1])
    assert list((tmp_path / "run" / "run" / "checkpoints").iterdir()) == []
    assert command(*words).code == 0


# Tensorstore's other reads may end after orbax has closed the event loop, and then say so.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_good(
    command, source, finished, tmp_path
):
    words = ("--data", source, *RUN, "--out", tmp_path / "run")
    shutil.copytree(finished, tmp_path / "run")
    newest = tmp_path / "run" / "run" / "checkpoints" / "275"
    for path in newest.rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-50])
    ended = command(*words)
    assert ended.code == 2
    assert re.search(r"checkpoints/275 is damaged.*; remove it to", ended.err.splitlines()[-1])
    shutil.rmtree(newest)
    assert command(*words).code == 0
    assert_same_flow(tmp_path / "run", finished)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--levels", "-1"), "levels is -1; expected 1 or more"),
        (("--levels", "0"), "levels is 0; expected 1 or more"),
        (("--levels", "4"), "4 levels need sides divisible by 16, and the images are 8 x 8"),
        (("--depth", "0"), "depth is 0; expected 1 or more"),
        (("--width", "0"), "width is 0; expected 1 or more"),
        (("--batch-size", "0"), "batch_size is 0; expected 1 or more"),
        (("--learning-rate", "nan"), "learning_rate is nan; expected a positive number"),
        (("--seed", "-1"), "seed is -1; expected 0"),
    ],
)
def test_senseless_settings_claim_no_folder(command, source, tmp_path, words, message):
    ended = command("--data", source, *RUN, "--out", tmp_path / "run", *words)
    assert ended.code == 2 and message in ended.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_networks_compute_in_bfloat16_and_the_file_says_so(finished):
    flow = flows.load(finished / "flow.safetensors")
    assert flow.architecture["dtype"] == "bfloat16"
    card = json.loads((finished / "card.json").read_text())
    assert card["flow"]["dtype"] == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(flow.variables)} == {"float32"}
    x, key = np.float32(IMAGES[:4]) / 256, jax.random.key(0)
    program = jax.jit(flow.log_prob).lower(flow.variables, key, x)
    assert "bf16" in program.as_text()
    found = program.compile()(flow.variables, key, x)
    assert found.dtype == np.float32
    module = flows.build(flow.architecture | {"dtype": "float32"})
    exact = jax.jit(module.apply)(flow.variables, x)
    assert 0 < np.max(np.abs(found - exact)) < 0.01 * np.max(np.abs(exact))


class Shallow(nn.Module):
    """A flow that has one of the command line's options."""

    image_shape: tuple[int, int, int]
    width: int = 3


def test_a_flow_is_given_the_options_that_it_has_attributes_for(monkeypatch):
    monkeypatch.setitem(flows.MODULES, "Shallow", Shallow)
    parse = train_flow.build_parser().parse_args
    odd = (7, 7, 1)  # no number of levels fits
    module = train_flow.build_module(parse(["--flow", "Shallow", "--width", "5"]), odd)
    assert module == Shallow(odd, width=5)
    for option, value in (("depth", "3"), ("levels", "1"), ("dtype", "bfloat16")):
        with pytest.raises(InputError, match=f"Shallow has no attribute {option}; .* out or"):
            train_flow.build_module(parse(["--flow", "Shallow", f"--{option}", value]), odd)
