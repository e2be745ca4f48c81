import numpy as np
import pytest

import ecood.score
from ecood import cli
from tests import small


def run(*words):
    return cli.main(["export", *map(str, words)])


def test_the_file_scores_as_the_scorer_does(saved, scorer, tmp_path, capsys):
    out, images = tmp_path / "mine.npz", small.images(5, seed=3)
    assert run(saved, "--out", out, "--platforms", "cpu", "tpu") == 0
    size = f"{out.stat().st_size / 1e6:.1f}"
    assert capsys.readouterr().out == f"{out}: {size} MB, for cpu, tpu\n"
    program = ecood.score.load_export(out)
    assert program.about["platforms"] == ["cpu", "tpu"]
    np.testing.assert_allclose(program(images), scorer(images), rtol=1e-5)
    np.testing.assert_array_equal(program.calibration, scorer.calibration)
    assert run(out, "--out", tmp_path / "again.npz") == 2
    assert "is an exported scorer already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("nobody", "--out", "x.npz"), "there is no scorer 'nobody'"),
        (("mine", "--out", "x.bin"), "expected a file name ending in .npz"),
        (("mine", "--out", "x.npz", "--platforms", "toaster"), "platforms is ['toaster']"),
        (("mine", "--out", "x.npz", "--trust", "a:b"), "leave --trust out"),
    ],
)
def test_what_cannot_be_exported_is_refused(words, problem, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert problem in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not list(tmp_path.iterdir())


def test_a_part_of_the_scorer_is_not_written_over(on_disk, capsys):
    before = sorted(path.name for path in on_disk.iterdir())
    assert run(on_disk, "--out", on_disk / "flow.safetensors") == 2
    assert "which this run reads" in capsys.readouterr().err
    assert sorted(path.name for path in on_disk.iterdir()) == before
