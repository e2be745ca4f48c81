import dataclasses
import itertools

import jax
import numpy as np
import pytest

from ecood.errors import InputError
from ecood.train import budgets, fit_budgets
from tests.train.toy import CONFIG, MEAN, TRAIN, Stop, stop_at

SECONDS = 3 / 60, 6 / 60  # of a clock that counts segments
FOR_MINUTES = dataclasses.replace(CONFIG, steps=None, minutes=SECONDS[-1])


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A process that uses a CPU second a segment."""
    monkeypatch.setattr(budgets, "SAVED", 1.0)
    monkeypatch.setattr(budgets.time, "process_time", map(float, itertools.count()).__next__)


def run(directory, minutes, progress=lambda record: None):
    return list(fit_budgets(MEAN, TRAIN, FOR_MINUTES, minutes, directory, progress))


def test_a_killed_run_and_one_that_is_continued_give_the_numbers_of_one_run(tmp_path):
    whole = run(tmp_path / "whole", SECONDS)
    assert [reached[:2] for reached in whole] == [(SECONDS[0], 75), (SECONDS[1], 150)]
    with pytest.raises(Stop):
        run(tmp_path / "parts", SECONDS[:1], stop_at(50))
    steps = []
    parts = run(tmp_path / "parts", SECONDS[:1], lambda record: steps.append(record["step"]))
    assert steps == [50, 75]
    parts += run(tmp_path / "parts", SECONDS)[1:]
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


def test_larger_budgets_continue_at_a_rate_that_they_have_time_for(tmp_path):
    run(tmp_path, SECONDS)
    totals, means, planned = [], [], []
    more = (*SECONDS, 12 / 60)
    for reached in fit_budgets(
        MEAN, TRAIN, FOR_MINUTES, more, tmp_path, lambda told: totals.append(told["total_steps"])
    ):
        means.append(np.asarray(reached.variables["params"]["mean"]))
        planned.append((reached.minutes, reached.planned))
    assert totals == [300] * 6 and reached.steps == 300
    assert planned == [(SECONDS[1], SECONDS[1]), (12 / 60, 12 / 60)]  # each at its own rate
    assert np.abs(means[-1] - means[-2]).max() > 0.005


def test_a_budget_that_a_run_was_past_before_is_not_made_up(tmp_path):
    run(tmp_path, SECONDS)
    late = (SECONDS[0], 4 / 60, SECONDS[1], 8 / 60)
    assert [reached[:2] for reached in run(tmp_path, late)] == [(SECONDS[1], 150), (8 / 60, 200)]


def test_what_is_no_part_of_the_run_is_refused(tmp_path, monkeypatch):
    run(tmp_path, SECONDS)
    with pytest.raises(InputError, match="holds a run with minutes = 0.05 instead of 0.1"):
        run(tmp_path, SECONDS[1:])
    with pytest.raises(InputError, match="holds a run with other training images"):
        list(fit_budgets(MEAN, TRAIN[::-1], FOR_MINUTES, SECONDS, tmp_path, print))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="is one process's; start one alone"):
        run(tmp_path, SECONDS)


def test_the_rate_falls_after_the_first_budget_alone(tmp_path):
    totals = []
    run(tmp_path, SECONDS, lambda record: totals.append(record["total_steps"]))
    assert totals == [0, 0, 0, 150, 150, 150]


def test_what_the_caller_has_set_counts_for_the_caller_alone(tmp_path):
    """A mesh with explicit axes, and how random bits are made."""
    whole = run(tmp_path / "whole", SECONDS)
    mesh, mine = jax.make_mesh((1,), ("x",)), []
    with jax.set_mesh(mesh), jax.threefry_partitionable(False):
        for reached in fit_budgets(
            MEAN, TRAIN, FOR_MINUTES, SECONDS, tmp_path / "meshed", lambda record: None
        ):
            mine.append(reached)
            assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh
            assert not jax.config.jax_threefry_partitionable
    jax.tree.map(np.testing.assert_array_equal, mine, whole)
