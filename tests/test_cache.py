"""What is kept on disk is computed anew where its makers changed."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ecood import cache


def test_the_versions_of_what_computes_are_part_of_the_key(tmp_path, monkeypatch):
    for version, expected in (("1", [1]), ("1", [1]), ("2", [2])):
        monkeypatch.setattr(cache.metadata, "version", lambda name, v=version: v)
        found = cache.Cache(tmp_path).get("x", {}, lambda e=expected: {"x": np.array(e)})
        assert found["x"].tolist() == expected
    assert {"jax 2", "imagecodecs 2"} <= set(cache.versions())


def test_what_is_told_may_have_any_name(tmp_path):
    told = {name: np.arange(3) for name in ("key", "file", "score")}
    kept = cache.Cache(tmp_path)
    for compute in (lambda: told, lambda: pytest.fail("computed twice")):
        found = kept.get("place", {"seed": "0"}, compute)
        assert found.keys() == told.keys()
        np.testing.assert_array_equal(found["file"], told["file"])


EDITED = """
import pathlib, sys
from ecood import cache
path = cache.PACKAGE / "words.py"
path.write_text(path.read_text() + sys.argv[1])
print(cache.Cache(pathlib.Path("scores")).source)
"""


def test_it_is_the_source_that_the_process_has_imported_not_what_was_made_of_it_since(tmp_path):
    shutil.copytree(cache.PACKAGE, tmp_path / "ecood", ignore=shutil.ignore_patterns("pretrained"))

    def digest(added):
        done = subprocess.run(
            [sys.executable, "-c", EDITED, added],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    before = digest("# edited\n")
    assert before != digest("") == digest("")


def test_every_source_file_is_part_of_the_key(tmp_path, monkeypatch):
    assert (cache.PACKAGE / "evaluation" / "roster.py").exists()
    computed = []
    for run, content in enumerate(("jnp.maximum", "jnp.maximum", "jnp.minimum")):
        source = tmp_path / f"source_{run}"
        (source / "score").mkdir(parents=True)
        (source / "score" / "spem.py").write_text(content)
        monkeypatch.setattr(cache, "PACKAGE", source)
        kept = cache.Cache(tmp_path / "scores")
        kept.get("place", {"seed": "0"}, lambda: computed.append(1) or {"score": np.zeros(1)})
    assert len(computed) == 2
