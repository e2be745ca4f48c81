"""What every experiment shares: where it must not write, and that it needs no extra."""

import subprocess
import sys

import pytest

from experiments import report
from tests import small
from tests.data.image_files import write_images


@pytest.mark.parametrize("out", ["photos", "photos/runs/new"])
def test_no_figure_becomes_an_image_of_the_next_run(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", small.images(3))
    monkeypatch.setattr(sys, "argv", ["program", "--data", "photos", "--out", out])
    parser = report.parser("experiments.any", "", "runs", data="auto")
    with pytest.raises(SystemExit, match="2"):
        report.main(lambda _: pytest.fail("it ran"), parser)
    assert capsys.readouterr().err == (
        f"python -m experiments.any: cannot write {out}/report.png, which would be one of the "
        "images of this folder the next time; give another name.\n"
    )
    assert len(list(tmp_path.rglob("*"))) == 4


def test_experiments_begin_without_what_an_extra_installs():
    program = """
import importlib, pkgutil, sys
for name in ("sklearn", "imagecodecs", "datasets", "huggingface_hub"):
    sys.modules[name] = None
import experiments
for module in pkgutil.walk_packages(experiments.__path__, "experiments."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import experiments.benchmark.__main__, experiments.densities.__main__
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
