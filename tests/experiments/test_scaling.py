import json

import pytest

from experiments import scaling, speed


@pytest.mark.slow
def test_costs_are_measured_and_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "TURNS", 1)
    for name, sizes in (("COUNTS", (8, 70)), ("ROWS", (50, 500)), ("SIDES", (8, 16))):
        monkeypatch.setattr(scaling, name, sizes)
    monkeypatch.setattr(scaling, "DEPTHS", (1, 2))
    parser = scaling.report.parser("experiments.scaling", scaling.__doc__, str(tmp_path))
    scaling.run(parser.parse_args([]))
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [len(row["seconds"]) for row in rows] == [2, 2, 2, 2]
    assert all(second > 0 for row in rows for second in row["seconds"])
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "| K, steps a level | 1, 2 |" in (tmp_path / "report.md").read_text()


def test_no_query_is_in_the_bank():
    similarity = scaling.search(1000)()
    assert similarity.min() > 0.1 and similarity.max() < 0.4  # of random directions


def test_the_slope_is_that_of_a_power(monkeypatch):
    monkeypatch.setattr(scaling, "take_turns", lambda *runs: [[run()] for run in runs])
    sizes = (1, 10, 100, 1000)
    row = scaling.measured("n", sizes, lambda n: lambda: 3 + 0.1 * n**2)
    assert row["slope"] == pytest.approx(2, abs=0.15) and row["sizes"] == sizes
