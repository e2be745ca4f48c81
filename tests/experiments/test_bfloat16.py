import json

import jax.numpy as jnp
import pytest

from ecood import memory, metrics
from ecood.score import Scorer, SPEMState
from ecood.statistics import Reference
from experiments import bfloat16
from tests import small


def test_sets_that_are_not_at_hand_are_listed(tmp_path, monkeypatch):
    row = {"images": [9, 9], "mean": 0.1, "largest": 0.2, "spearman": 1.0}
    row["auroc"] = {"float32": 0.9, "bfloat16": 0.9}
    monkeypatch.setattr(bfloat16, "compare", lambda *_: row)
    arguments = bfloat16.build_parser().parse_args(["--out", str(tmp_path), "--limit", "9"])
    bfloat16.run(arguments)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["id"] for row in report["rows"]] == ["fashion_mnist"]
    assert [each["id"] for each in report["missing"]] == ["cifar10", "svhn_cropped", "mnist"]
    assert "the scorer was made from all 9 test images of mnist" in report["missing"][-1]["reason"]
    assert "cifar10 → svhn_cropped is missing: there is no" in (tmp_path / "report.md").read_text()


def test_both_precisions_see_the_same_images_and_noise():
    flow, encoder = small.blank_flow(), small.encoder()
    params = small.moved(flow.variables["params"], 0.1)
    flow = flow.replace(variables=flow.variables | {"params": params})
    bank = memory.build(encoder, small.images(60))
    reference = Reference(
        *jnp.array([[6.0, 0.2, -0.9, 0.1], [0.5, 0.1, 0.05, 0.2]])
    )  # no fit to compile
    scorer = Scorer(SPEMState(flow, encoder, bank, jnp.float32(0.05), reference), small.SHAPE)
    known, strange = small.images(40, seed=1), 255 - small.images(30, seed=2)
    row = bfloat16.compare(scorer, known, strange)
    assert row["images"] == [40, 30]
    assert 0 < row["mean"] < row["largest"] < 0.05
    assert 0.99 < row["spearman"] <= 1
    assert row["auroc"]["float32"] == metrics.auroc(scorer(known), scorer(strange))
    assert row["auroc"]["bfloat16"] == pytest.approx(row["auroc"]["float32"], abs=0.02)
    line = bfloat16.page([{"id": "a", "ood": "b", **row}])[-1]
    assert line.startswith("| a → b | 40 + 30 | 0.0")
