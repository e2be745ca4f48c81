import json
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import memory
from ecood.errors import InputError
from ecood.score import Scorer, SPEMState
from ecood.statistics import Reference
from experiments import speed
from tests import small


class Flat:
    """What the experiment needs of faiss's index."""

    def __init__(self, features):
        self.rows = np.zeros((0, features), np.float32)

    def add(self, rows):
        self.rows = np.concatenate([self.rows, rows])

    def search(self, queries, count):
        return np.sort(queries @ self.rows.T, axis=1)[:, ::-1][:, :count], None


def test_a_search_is_timed_compared_and_weighed(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", types.SimpleNamespace(IndexFlatIP=Flat))
    monkeypatch.setattr(speed, "TURNS", 1)
    monkeypatch.setattr(speed, "QUERIES", 100)
    row = speed.search(9000)
    assert row["what"] == "search 100 x 9,000 x 384"
    assert row["ratio"] == row["theirs"] / row["ours"] > 0
    assert row["bank_bytes"] == 9000 * 384 * 4
    assert 0 < row["temporary_bytes"] < row["bank_bytes"] / 2
    assert row["largest_difference"] < 1e-5


@pytest.mark.parametrize(
    ("part", "peer", "command"),
    [("bank", "faiss", "pip install faiss-cpu"), ("flow", "normflows", "pip install torch")],
)
def test_without_the_peer_the_error_says_what_to_install(monkeypatch, part, peer, command):
    monkeypatch.setitem(sys.modules, peer, None)
    with pytest.raises(InputError, match=f"run `{command}"):
        speed.measure(part)


def test_all_leaves_out_what_has_no_peer_and_json_is_all_that_is_printed(
    monkeypatch, capsys, tmp_path
):
    def missing():
        raise InputError("faiss is not installed.")

    row = speed.compared("glow forward K=8 h=96", "normflows", "images/s", [10, 30, 20], [10] * 3)
    parts = {"flow": lambda: [row], "bank": missing, "path": lambda: []}
    monkeypatch.setattr(speed, "PARTS", parts)
    speed.run(speed.build_parser().parse_args(["--json", "--out", str(tmp_path)]))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == [row]
    assert "bank is left out: faiss is not installed." in printed.err
    assert "| 20 | 10 | 2.00 | 1.00 to 3.00 |" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == [row]


def test_a_ratio_above_one_is_faster_in_every_unit():
    assert speed.compared("a", "b", "s", 1.0, 3.0)["ratio"] == 3
    assert speed.compared("a", "b", "images/s", 3.0, 1.0, gflops=7.0)["ratio"] == 3


def test_a_ratio_is_the_median_of_the_turns_own_and_has_their_ends():
    row = speed.compared("a", "b", "s", np.array([1.0, 2.0, 4.0]), np.array([3.0, 8.0, 4.0]))
    assert (row["ours"], row["theirs"], row["ratio"], row["ratios"]) == (2, 4, 3, [3, 4, 1])


def test_the_turns_are_taken_in_turn_and_only_every_second_run_is_timed(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    def run(name, times):
        calls.append(name)
        now[0] += next(times)

    first, second = iter([100.0, 1, 50, 9, 50, 2, 50, 3, 50, 4]), iter([100.0, *[5] * 9])
    seconds = speed.take_turns(lambda: run("a", first), lambda: run("b", second))
    np.testing.assert_array_equal(seconds, [[1, 9, 2, 3, 4], [5] * 5])
    assert calls == ["a", "a", "b", "b"] * 5


@pytest.mark.slow
def test_our_side_of_the_flows_runs(monkeypatch):
    monkeypatch.setattr(speed, "SHAPE", (8, 8, 2))
    monkeypatch.setattr(speed, "LEVELS", 1)
    images = np.random.default_rng(0).random((4, 8, 8, 2), np.float32)
    work = speed.our_glow(2, 8, images, "bfloat16")
    assert work.forward().shape == (4,)
    work.train()
    work.train()
    # 8 channels: act-norm, mix, the network's three layers, the last with gains; the prior
    step = 2 * 8 + (2 * 64 + 8) + (288 + 8) + (64 + 8) + (576 + 2 * 8)
    assert work.parameters == 2 * step + 2 * 8


def test_the_path_is_timed_once_for_each_form_and_set_beside_its_parts(monkeypatch):
    encoder, reference = small.encoder(), Reference(jnp.zeros(4), jnp.ones(4))
    bank = memory.build(encoder, small.images(60))
    state = SPEMState(small.gaussian(), encoder, bank, jnp.float32(0.1), reference)
    monkeypatch.setattr(ecood.score, "load", lambda name: Scorer(state, small.SHAPE))
    monkeypatch.setattr(speed, "TURNS", 1)
    own, beside_two, papers = speed.path("small")
    assert own["ours"] == beside_two["ours"] and own["theirs"] == papers["theirs"]
    assert beside_two["peer"] == "two likelihoods + encoder"
    assert "own form" in own["what"] and "paper's form" in papers["what"]


def test_commands_are_set_beside_their_first_time_and_the_path(monkeypatch, tmp_path):
    taken = iter([(9.0, 12.0, 500.0), (3.0, 4.0, 400.0), (13.0, 15.0, 410.0)])
    with monkeypatch.context() as patched:
        patched.setattr(speed, "commanded", lambda *given: next(taken))
        patched.setattr(speed, "take_turns", lambda run: np.array([[0.5, 0.7, 0.4]]))
        kept, many = speed.command(speed.STREAMED)
    assert (kept["ratio"], kept["cpu_seconds"], kept["first_cpu_seconds"]) == (3, 4, 12)
    assert (many["ours"], many["theirs"]) == ((speed.MANY - speed.FEW) / 10, 1000 / 0.5)
    assert many["megabytes"] == [400, 410]
    python = tmp_path / "python"  # knows no ecood: exits with CODE
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nexit $CODE\n')
    python.chmod(0o755)
    monkeypatch.setattr(speed.sys, "executable", str(python))
    monkeypatch.setenv("CODE", "0")
    seconds, cpu, size = speed.commanded("small", small.images(3), str(tmp_path))
    assert seconds > 0 <= cpu and 0 < size < 50 and len(list(tmp_path.glob("3/*.png"))) == 3
    monkeypatch.setenv("CODE", "1")
    with pytest.raises(InputError, match="failed; run it"):
        speed.commanded("small", small.images(3), str(tmp_path))
