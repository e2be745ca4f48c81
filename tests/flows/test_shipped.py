"""The shipped flows: they load by name, are as small as promised, and their cards are true."""

import json
import re

import chex
import jax
import numpy as np
import pytest
import safetensors

from ecood import data, flows
from ecood.batches import map_images
from ecood.errors import InputError
from ecood.train import flow_task

DIRECTORIES = sorted(flows.PRETRAINED.iterdir())


def test_every_folder_holds_a_flow_and_a_card():
    assert [folder.name for folder in DIRECTORIES] == flows.shipped()
    for folder in DIRECTORIES:
        assert (folder / "README.md").exists()
        for file in folder.glob("*.safetensors"):
            assert file.stat().st_size <= 6_000_000, file


@pytest.mark.parametrize("name", flows.shipped())
def test_they_load_by_name_and_a_path_of_that_name_comes_first(name, tmp_path, monkeypatch):
    by_name = flows.load(name)
    chex.assert_trees_all_equal(
        by_name.variables, flows.load(flows.PRETRAINED / name / "flow.safetensors").variables
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=name):
        flows.load(name)


def test_no_file_tells_of_the_machine_that_it_was_made_on():
    for file in flows.PRETRAINED.glob("*/*.safetensors"):
        with safetensors.safe_open(file, "numpy") as opened:
            told = json.dumps(opened.metadata() or {})
        assert not re.search(r"[\s\"']~?/\w", told), (file, told)


@pytest.mark.slow  # a residual flow evaluates exact terms
@pytest.mark.parametrize("name", [n for n in flows.shipped() if n.startswith("fashion_mnist")])
def test_the_bits_of_the_card_are_those_of_the_embedded_test_images(name):
    flow = flows.load(name)
    images = data.load_images("embedded", "fashion_mnist", "test")
    evaluate = flow_task(flow.density).evaluate
    bits = map_images(evaluate, flow.variables, jax.random.key(0), images=images)
    card = (flows.PRETRAINED / name / "README.md").read_text()
    promised = float(re.search(r"([\d.]+) on the\s+2,000\s+test\s+images", card).group(1))
    assert np.mean(bits) == pytest.approx(promised, abs=2e-3)
