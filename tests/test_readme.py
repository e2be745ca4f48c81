"""The README's code runs as written, from top to bottom, in a folder of one's own."""

import pathlib
import re

import numpy as np

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_code_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 4
    names: dict = {}
    again = [block for block in blocks if "save(" in block]  # over what is there
    assert len(again) == 2
    for block in [*blocks, *again]:
        exec(compile(block, "README.md", "exec"), names)
    assert names["scores"].shape == (100,) and np.isfinite(names["scores"]).all()
    assert names["flagged"].mean() > 0.5  # MNIST against a scorer of FashionMNIST
    assert (tmp_path / "runs" / "copy" / "scorer.json").exists()
    assert len(list((tmp_path / "runs" / "photos").glob("*.png"))) == 2000


def test_the_block_that_makes_two_folders_runs_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (alone,) = (block for block in blocks if "Image.fromarray" in block)
    exec(compile(alone.replace("limit=2000", "limit=2"), "README.md", "exec"), {})
    assert len(list((tmp_path / "runs").glob("*/*.png"))) == 4


def test_the_two_commands_begin_with_their_own_environment():
    for name in ("main job", "tests"):
        command = re.search(rf"<!-- {name} -->\n```sh\n(.*?)\n```", README).group(1)
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
