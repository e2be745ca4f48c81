"""Two processes that compute together, on the loopback."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from ecood import hosts, score, weights
from ecood.train import fit
from tests import small
from tests.train import toy

ROOT = pathlib.Path(__file__).parents[1]


def start(arguments, **variables):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(arguments, of=2):
    """The (exit code, standard output, standard error) of so many processes, by their index."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(of)}
    shared |= {"JAX_COORDINATOR_BIND_ADDRESS": shared["JAX_COORDINATOR_ADDRESS"]}
    with contextlib.ExitStack() as stack:
        started = [start(arguments, **shared, JAX_PROCESS_ID=str(index)) for index in range(of)]
        for process in started:
            stack.enter_context(process)
            stack.callback(process.kill)
        ended = [process.communicate(timeout=90) for process in started]
    return [(process.returncode, *said) for process, said in zip(started, ended, strict=True)]


def test_two_processes_train_build_search_and_score_as_one(tmp_path):
    for code, said, told in run(["-m", "tests.host_program", tmp_path / "two"]):
        assert (code, said) == (0, ""), told
    assert not (tmp_path / "two" / "second").exists()  # the first alone writes
    ((code, _, told),) = run(["-m", "tests.host_program", tmp_path / "one"], of=1)
    assert code == 0, told
    two, one = (weights.load(tmp_path / n / "found.safetensors")[0] for n in ("two", "one"))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=2e-3, atol=2e-3, err_msg=name)


KILLED = """
import os, pathlib, signal, sys
import jax, numpy as np
from ecood import hosts
from ecood.train import fit
from tests.train import toy

dies = int(sys.argv[2])

def progress(record):
    if record["step"] == 50 and jax.process_index() == dies:
        os.kill(os.getpid(), signal.SIGKILL)

with hosts.together("program"):
    fitted = fit(toy.MEAN, toy.TRAIN, toy.HELD_OUT, toy.CONFIG, sys.argv[1], progress=progress)
    print(fitted.held_out, len(fitted.log))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_killed_process_ends_the_other_in_a_sentence_and_training_resumes(tmp_path, dies):
    script = tmp_path / "program.py"
    script.write_text(KILLED)
    ended = run([script, tmp_path / "run", dies])
    assert ended[dies][0] == -signal.SIGKILL
    code, said, told = ended[1 - dies]
    assert code and not said
    if dies == 1 or code == 2:
        assert code == 2 and "another process of this run has ended" in told.splitlines()[-1]
        assert "Traceback" not in told
    else:  # JAX was quicker to see that the first one, which all processes ask, is gone
        assert code == -signal.SIGABRT and "another task died" in told
    (code, resumed, told), (other, *_) = run([script, tmp_path / "run", 9])
    assert (code, other) == (0, 0), told
    whole = fit(toy.MEAN, toy.TRAIN, toy.HELD_OUT, toy.CONFIG)
    held_out, lines = resumed.split()
    np.testing.assert_allclose(float(held_out), whole.held_out, rtol=1e-5)
    assert int(lines) == len(whole.log)


def test_processes_with_other_images_are_refused(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(KILLED.replace("toy.TRAIN", "toy.TRAIN + jax.process_index()"))
    (_, _, first), (code, _, second) = run([script, tmp_path / "run", 9])
    assert code == 2 and "process 1 was given other images or settings" in second
    assert "another process of this run has ended" in first.splitlines()[-1]


@pytest.mark.slow
def test_the_command_line_takes_part_and_the_first_process_writes(tmp_path):
    scorer = ROOT / "tests" / "score" / "scorer_0_1"
    np.save(tmp_path / "images.npy", small.images(70, seed=1, shape=(8, 8, 1)))
    command = ["-m", "ecood", "score", tmp_path / "images.npy", "--scorer", scorer]
    (code, said, told), other = run(command)
    assert code == 0 and other[:2] == (0, "") and "70" in told, other
    alone = score.load(scorer)(small.images(70, seed=1, shape=(8, 8, 1)))
    rows = [line.split(",") for line in said.splitlines()]
    assert rows[0][2] == "score"
    np.testing.assert_allclose([float(row[2]) for row in rows[1:]], alone, rtol=1e-3, atol=1e-3)


def test_processes_that_do_not_meet_are_told_so():
    variables = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "two"}
    process = start(["-m", "ecood", "score", "-"], **variables)
    said, told = process.communicate(timeout=100)
    assert process.returncode == 2 and not said
    assert "JAX_NUM_PROCESSES=two" in told and len(told.splitlines()) == 1


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    with hosts.together("program"):
        assert hosts.is_first() and hosts.agree({"a": 1}) == {"a": 1}
