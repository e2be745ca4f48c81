"""docs/detectors.md: its code runs and keeps the protocol, its table has every baseline."""

import pathlib
import re

import jax
import numpy as np

import ecood.baselines
from tests.baselines import tiny

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "detectors.md").read_text()


def test_the_detector_on_the_page_works():
    definition, use = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    scale = np.linspace(0.2, 0.5, tiny.D)
    images = np.concatenate([tiny.images(4, 1), tiny.hard_images()])
    names = {"flow": tiny.gaussian(scale), "split": tiny.split(80), "images": images}
    exec(definition, names)
    exec(use, names)
    found, state = names["found"], names["state"]
    assert found.shape == (8,) and found.dtype == np.float32 and np.all(np.isfinite(found))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert found[4:6].min() > found[:4].max()  # black and white lie far out


def test_the_table_has_every_baseline():
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    assert rows == set(ecood.baselines.__all__) - {"standard", "group_typicality"}
