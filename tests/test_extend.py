"""docs/extend.md adds a data set, a flow, an encoder, a statistic and a detector, and uses them."""

import pathlib
import re

import numpy as np

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "extend.md"


def test_one_of_each_is_added_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    assert names["fitted"].held_out < 8  # bits/dim: the flow has learned something
    assert names["found"].shape == (50,) and np.isfinite(names["found"]).all()
    assert np.asarray(names["flow"].trained_on).shape == (len(names["split"].train), 2)
    assert names["scorer"].unknown == ["encoder"]  # a function does not say what it was made from
    assert names["flagged"].all()


def test_the_files_that_the_page_names_exist():
    root = PAGE.parent.parent
    for path in re.findall(r"`((?:tests|ecood)/[\w/]+\.py)`", PAGE.read_text()):
        assert (root / path).exists(), path
