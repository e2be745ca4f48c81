import importlib.metadata
import pathlib
import shlex
import sys

from ecood import provenance


def test_a_command_can_be_run_again(monkeypatch):
    words = ["fit", "my photos", "--out", "it's", "--steps", "25"]
    monkeypatch.setattr(sys, "argv", ["fit.py", *words])
    told = shlex.split(provenance.command())
    assert told[:2] == ["python", "-m"] and told[3:] == words


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    version = importlib.metadata.version

    def without_distrax(name):
        if name == "distrax":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_distrax)
    told = provenance.identify({}, pathlib.Path(__file__).parent)["versions"]
    assert "distrax" not in told and told["jax"] == version("jax")
