import functools
import json

import pytest

import ecood.score
from ecood.errors import InputError
from experiments import cifar_vs_svhn

DETECTORS = ["spem", "spem_paper", "likelihood", "similarity", "constant_noise", "shuffled_noise"]


@pytest.fixture(autouse=True, scope="module")
def _one_scorer():
    """Loaded once, and so compiled once, for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ecood.score, "load", functools.cache(ecood.score.load))
        yield


def _run(tmp_path, *words):
    parser = cifar_vs_svhn.build_parser()
    command = [
        "--data",
        "embedded",
        "--limit",
        "64",
        "--seeds",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    cifar_vs_svhn.run(parser.parse_args([*command, *words]))


def test_the_report_has_every_part_beside_the_whole(tmp_path, capsys):
    _run(tmp_path, "--noise-strength", "1.0")
    assert capsys.readouterr().out.startswith("data: fashion_mnist and mnist, in place of cifar10")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["detectors"]) == DETECTORS
    for numbers in report["detectors"].values():
        low, high = numbers["auroc_ci"]
        assert 0 <= low <= numbers["auroc"] <= high <= 1
        assert {"aupr_in", "aupr_out", "fpr95"} <= set(numbers)
    assert len(report["detectors"]["spem"]["auroc_seeds"]) == 2
    assert report["noise_strength"] == 1.0
    assert report["data"]["source"] == "embedded" and report["data"]["n_id_test"] == 64
    strengths = [strength for strength, *_ in report["curve"]]
    assert strengths[0] == 0 and strengths == sorted(strengths)
    assert {"command", "settings", "versions", "git_revision", "date"} <= set(report)
    # The paradox, and its repair, are large enough to show on 64 images.
    assert report["detectors"]["likelihood"]["auroc"] < 0.4
    assert report["detectors"]["spem"]["auroc"] > 0.8
    assert report["curve"][0][2] < 0.4  # the paper's form without noise
    text = (tmp_path / "out" / "report.md").read_text()
    assert all(f"| {cifar_vs_svhn.title(name)} |" in text for name in DETECTORS)
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_end_without_noise_can_be_reported(tmp_path):
    _run(tmp_path, "--noise-strength", "0", "--seeds", "1")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    paper, likelihood = (report["detectors"][name] for name in ("spem_paper", "likelihood"))
    assert paper["auroc"] == likelihood["auroc"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--noise-strength", "much"), "--noise-strength is 'much'"),
        (("--noise-strength", "-1"), "noise_strength is -1.0"),
        (("--seeds", "0"), "--seeds is 0"),
        (("--flow", "nonesuch"), "there is no scorer 'nonesuch'"),
        (("--data", "nonesuch"), "nonesuch is not there"),
        (("--train", "--minutes", "0"), "training for 0.0 is no training"),
    ],
)
def test_wrong_command_lines_end_in_one_sentence_and_leave_nothing(tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        _run(tmp_path, *words)
    assert not (tmp_path / "out").exists()
