import json
import pathlib
import sys

import pytest

from experiments import likelihood_gap, report


@pytest.mark.slow
def test_quick_run_writes_a_report_that_keeps_the_theorems(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["likelihood_gap", "--quick", "--out", str(tmp_path)])
    report.main(likelihood_gap.run, likelihood_gap.build_parser())

    def refuse(constant):
        raise AssertionError(f"{constant} in the report")

    result = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert result["settings"]["seed"] == 0 and result["versions"]["jax"]
    gaussian, plane = result["sections"]["gaussian"], result["sections"]["plane"]
    for row in gaussian["tables"][0]["rows"]:
        value, error = row["measured"]
        assert abs(value - row["gap after"]) < 4.5 * error, row["case"]
        assert row["certified"] is None or row["certified"] >= row["exact"], row["case"]
    for row in plane["tables"][1]["rows"]:
        assert row["certificate"] <= row["gap"], row
        assert row["KL(P' to p)"] > 0 and row["KL(Q' to p)"] > 0
    by_name = {row["Q"]: row for row in plane["tables"][0]["rows"]}
    between = by_name["between the modes"]
    assert between["gap before"] < 0 < between["measured"] < between["certified, indexed"]
    assert between["certified, indexed"] <= between["certified, mean"]
    assert between["certified, mean"] <= between["certified, floor"]
    assert by_name["on a mode"]["measured"] is None
    for section in (gaussian, plane):
        assert (tmp_path / section["figure"]).read_bytes().startswith(b"\x89PNG")
    page = pathlib.Path(tmp_path / "report.md").read_text()
    assert all(row["case"] in page for row in gaussian["tables"][0]["rows"])
