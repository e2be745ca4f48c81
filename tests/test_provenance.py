import shlex
import sys

from ecood import provenance


def test_a_command_can_be_run_again(monkeypatch):
    words = ["fit", "my photos", "--out", "it's", "--steps", "25"]
    monkeypatch.setattr(sys, "argv", ["fit.py", *words])
    told = shlex.split(provenance.command())
    assert told[:2] == ["python", "-m"] and told[3:] == words
