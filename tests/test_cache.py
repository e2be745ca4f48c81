"""What is kept on disk is computed anew where its makers changed."""

import numpy as np

from ecood import cache


def test_the_versions_of_what_computes_are_part_of_the_key(tmp_path, monkeypatch):
    for version, expected in (("1", [1]), ("1", [1]), ("2", [2])):
        monkeypatch.setattr(cache.metadata, "version", lambda name, v=version: v)
        found = cache.Cache(tmp_path).get("x", {}, lambda e=expected: {"x": np.array(e)})
        assert found["x"].tolist() == expected
    assert {"jax 2", "imagecodecs 2"} <= set(cache.versions())


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
