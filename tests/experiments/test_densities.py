"""Training for CPU time: budgets, resumption; the command and what it reports."""

import itertools
import json

import jax
import numpy as np
import pytest

import ecood.score
from ecood import data, flows, splits
from ecood.errors import InputError
from ecood.train import budgets
from experiments.densities import __main__ as densities
from experiments.densities import training
from tests import small

SMALL = training.Recipe(lambda shape: flows.TarFlow(shape, 1, 1, 8, patch=4), 1e-3)
SECONDS = 3 / 60, 6 / 60  # of a clock that counts segments


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A small density, and a process that uses a CPU second a segment."""
    monkeypatch.setitem(training.RECIPES, "TarFlow", SMALL)
    monkeypatch.setattr(budgets, "SAVED", 1.0)
    monkeypatch.setattr(budgets.time, "process_time", map(float, itertools.count()).__next__)


@pytest.mark.slow
def test_a_killed_run_and_one_that_is_continued_give_the_numbers_of_one_run(monkeypatch, tmp_path):
    images = data.load_images("embedded", "fashion_mnist", "train", limit=200)
    split = splits.draw(images, calibration=0.0)

    def run(folder, minutes):
        return training.trained("TarFlow", split, minutes, tmp_path / folder, flip=True)

    whole = run("whole", SECONDS)
    assert [row["steps"] for row in whole] == [75, 150]
    assert whole[1]["held_out"] < whole[0]["held_out"] < 9
    saved, save = [], budgets.Checkpoints.save

    def killed(self, step, state):
        save(self, step, state)
        saved.append(step)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with pytest.raises(InputError, match="was past 0.066.* CPU minutes before they were asked"):
        run("whole", (SECONDS[0], 4 / 60, SECONDS[1]))

    monkeypatch.setattr(budgets.Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run("parts", SECONDS[:1])
    assert run("parts", SECONDS[:1]) == whole[:1]
    assert run("parts", SECONDS) == whole
    trees = [flows.load(tmp_path / f / "0.1.safetensors") for f in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    monkeypatch.setattr(budgets.segment, "make_segment", None)  # nothing is left to do
    assert run("parts", SECONDS) == whole
    for minutes, told in (
        (SECONDS[1:], "from 0.05 to 0.1 CPU minutes, and 0.1 to 0.1 are asked for; leave 0.1"),
        ((*SECONDS, 0.2), "from 0.05 to 0.1 CPU minutes, and 0.05 to 0.2 are asked for; leave 0.1"),
    ):
        with pytest.raises(InputError, match=told):
            run("parts", minutes)
    (tmp_path / "parts" / "run").rename(tmp_path / "gone")
    with pytest.raises(InputError, match="is there without the run that it is of; remove"):
        run("parts", SECONDS)
    (tmp_path / "gone").rename(tmp_path / "parts" / "run")
    other = split._replace(train=split.train[::-1])
    with pytest.raises(InputError, match="holds a run with other training images"):
        training.trained("TarFlow", other, SECONDS, tmp_path / "parts", flip=True)


def test_the_command_reports_every_density_on_every_pair(monkeypatch, tmp_path, capsys):
    train = small.images(240)
    tests = {"cifar10": small.images(30, 1), "svhn_cropped": 255 - small.images(30, 2)}
    images = {("cifar10", "train"): train} | {(n, "test"): x for n, x in tests.items()}

    def load_images(source, name, part, *, limit=None):
        if (name, part) not in images:
            raise InputError(f"no {name} here.")
        return images[name, part][:limit]

    flow = small.gaussian().replace(trained_on=splits.remember(train[:228]))
    parts = splits.Split(train[:228], train[228:], train[:0])
    scorer = ecood.score.fit(flow, small.encoder(), parts, noise_strength=0.1)
    monkeypatch.setattr(data, "load_images", load_images)
    monkeypatch.setattr(ecood.score, "shipped", lambda: ["cifar10"])
    monkeypatch.setattr(ecood.score, "load", lambda name: scorer)
    monkeypatch.setattr(densities, "forget_programs", lambda: None)
    words = ["--out", str(tmp_path), "--density", "TarFlow", "--minutes", *map(str, SECONDS)]
    words += ["--batch-size", "16"]
    densities.run(densities.build_parser().parse_args(words))
    result = json.loads((tmp_path / "report.json").read_text())
    assert [row["minutes"] for row in result["trained"]] == list(SECONDS)
    assert [row["steps"] for row in result["trained"]] == [75, 150]
    assert [row["batch_size"] for row in result["trained"]] == [16, 16]
    (row,) = result["rows"]
    assert (row["id"], row["ood"], row["density"]) == ("cifar10", "svhn_cropped", "TarFlow")
    assert all(0 <= row[name]["auroc"] <= 1 for name in densities.COLUMNS)
    found = flows.load(tmp_path / "cifar10" / "TarFlow" / "0.1.safetensors")
    assert [splits.count_known(x, found.trained_on) for x in parts[:2]] == [228, 0]
    text = (tmp_path / "report.md").read_text()
    assert (
        f"{row['spem']['auroc']:.3f}" in text and f"{result['trained'][1]['held_out']:.3f}" in text
    )
    assert (tmp_path / "densities.png").read_bytes().startswith(b"\x89PNG")
    assert "cifar10: done" in capsys.readouterr().out


@pytest.mark.parametrize("minutes", [["0"], ["10", "5"], ["1", "1"]])
def test_senseless_budgets_are_refused(minutes):
    arguments = densities.build_parser().parse_args(["--minutes", *minutes])
    with pytest.raises(InputError, match="expected positive numbers, ascending"):
        densities.run(arguments)
