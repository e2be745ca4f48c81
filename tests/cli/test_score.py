import csv
import dataclasses
import io
import json
import os
import shutil
import sys

import numpy as np
import pytest

import ecood.score
from ecood import cli, conformal, encoders
from ecood.cli import output
from ecood.cli import score as command
from tests import small
from tests.data.image_files import write_images

PARTS = ["similarity", "noise_scale", "perturbed_bits", "bits", "code_length"]
COLUMNS = ["path", "index", "score", "p_value", *PARTS]


@pytest.fixture(scope="module")
def scorer():
    fitted = ecood.score.fit(
        small.blank_flow(), encoders.pixels(), small.images(80), noise_strength=0.1
    )
    return fitted.calibrate(small.images(60, seed=1))


@pytest.fixture
def saved(monkeypatch, scorer):
    """The name of a scorer that is compiled once for all tests."""
    load = ecood.score.load
    monkeypatch.setattr(
        ecood.score, "load", lambda name, **_: scorer if name == "mine" else load(name)
    )
    return "mine"


@pytest.fixture(scope="module")
def on_disk(scorer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("scorers") / "mine"
    scorer.save(directory)
    return directory


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "photos", small.images(70, seed=2))
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(command, "CHUNK", 32)


def run(saved, *words):
    return cli.main(["score", "--scorer", str(saved), *map(str, words)])


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_to_csv(scorer, saved, folder, capsys):
    assert run(saved, folder) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split(",") == COLUMNS
    found = rows(out)
    images = small.images(70, seed=2)
    detection, p = scorer.detect(images), scorer.p_value(images)
    assert [row["path"] for row in found] == [str(folder / f"{i:04}.png") for i in range(70)]
    np.testing.assert_array_equal(np.float32([r["score"] for r in found]), detection.score)
    np.testing.assert_allclose([float(r["p_value"]) for r in found], p, rtol=1e-6)
    for name in PARTS:
        column = np.float32([row[name] for row in found])
        np.testing.assert_array_equal(column, getattr(detection, name))


def test_arrays_and_files_to_json_lines_with_flags(scorer, saved, folder, tmp_path):
    images = np.concatenate([small.images(5, seed=3), 255 - small.images(40, seed=4)])
    np.savez(tmp_path / "x.npz", images=images)
    out = tmp_path / "new" / "scores.jsonl"
    one = folder / "0003.png"
    words = ("--format", "jsonl", "--out", out, "--fpr", "0.1")
    assert run(saved, tmp_path / "x.npz", one, *words) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["index"] for row in found] == [*range(45), 0]
    assert found[45]["path"] == str(one)
    assert [row["is_ood"] for row in found[:45]] == scorer.is_ood(images, 0.1).tolist()
    assert list(found[0]) == [*COLUMNS, "is_ood"]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_list_of_paths_on_standard_input(saved, folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{folder / '0001.png'}\n{folder}\n"))
    assert run(saved, "-") == 0
    assert len(rows(capsys.readouterr().out)) == 71


def test_damaged_and_odd_images_are_told_and_passed_over(saved, folder, capsys, tmp_path):
    (folder / "0001.png").write_bytes(b"damaged")
    (folder / "b\x1b[2J\n.png").write_bytes(b"damaged")  # would clear a terminal
    write_images(tmp_path / "odd", small.images(1, shape=(12, 8, 3)))[0].rename(folder / "odd.png")
    assert run(saved, folder, "--out", tmp_path / "s.csv") == 1
    told = capsys.readouterr().err
    assert "passed over: " in told and "0001.png cannot be decoded" in told
    assert "odd.png has shape [12, 8, 3], and the model takes [8, 8, 3]" in told
    assert r"b\x1b[2J\n.png cannot be decoded" in told
    assert told.splitlines()[0] == (
        "scorer: mine (images of 8 x 8 pixels and 3 channels; 60 calibration images)"
    )
    assert told.splitlines()[-1] == "scored 69 images, passed over 3 (3 .png)"
    assert len(rows((tmp_path / "s.csv").read_text())) == 69
    assert run(saved, folder, "--resize") == 1
    assert len(rows(capsys.readouterr().out)) == 70


def test_the_end_tells_what_was_found(scorer, saved, folder, capsys, tmp_path):
    (folder / "0001.png").write_bytes(b"damaged")
    out = tmp_path / "s.json"
    assert run(saved, folder, "--json-summary", out, "--out", tmp_path / "s.csv") == 1
    found = json.loads(out.read_text())
    images = np.delete(small.images(70, seed=2), 1, axis=0)
    flagged, drift = int(scorer.is_ood(images).sum()), scorer.drift(images)
    (problem,) = found.pop("problems")
    assert "0001.png cannot be decoded" in problem
    assert found == {
        "scorer": "mine",
        "scored": 69,
        "passed_over": 1,
        "passed_over_by_suffix": {".png": 1},
        "not_taken_by_suffix": {},
        "drift": drift._asdict(),
        "fpr": 0.05,
        "fpr_between": list(conformal.realised_fpr(60, 0.05)),
        "threshold": scorer.threshold(0.05),
        "flagged": flagged,
        "expected_by_chance": pytest.approx(3.45),
    }
    told = capsys.readouterr().err.splitlines()
    assert told[-3].startswith(f"flagged {flagged} at a false-positive rate of 0.05 (0.0")
    assert told[-3].endswith("; 3.45 expected by chance")
    assert told[-2].startswith("no sign of drift: 69 images")
    assert run(saved, folder, "--fpr", "0.1", "--json-summary", out) == 1
    assert json.loads(out.read_text())["flagged"] == scorer.is_ood(images, 0.1).sum()


def test_images_that_do_not_fit_the_default_scorer_stop_the_run(folder, capsys, tmp_path):
    for words in ((folder,), (folder, "--resize")):
        assert cli.main(["score", *map(str, words), "--out", str(tmp_path / "s.csv")]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert "the default scorer, fashion_mnist; name the scorer of your images with" in told
        assert "cifar10, fashion_mnist, mnist, svhn_cropped" in told
    assert not (tmp_path / "s.csv").exists()


def test_a_folder_of_another_size_is_given_up_early(saved, tmp_path, capsys):
    write_images(tmp_path / "odd", small.images(130, shape=(12, 8, 3)))
    assert run(saved, tmp_path / "odd", "--out", tmp_path / "s.csv") == 2
    told = capsys.readouterr().err
    assert "none of the first 100 images can be used" in told
    assert told.count("passed over") == 100
    assert not (tmp_path / "s.csv").exists()


def test_a_scorer_that_is_not_calibrated_scores_without_p_values(
    scorer, folder, monkeypatch, capsys
):
    plain = dataclasses.replace(scorer, calibration=None)
    monkeypatch.setattr(ecood.score, "load", lambda name, **_: plain)
    assert run("plain", folder / "0000.png") == 0
    told = capsys.readouterr()
    assert rows(told.out)[0]["p_value"] == ""
    assert told.err.splitlines()[-1] == "scored 1 images, passed over 0"
    assert "flagged" not in told.err and "drift" not in told.err
    assert run("plain", folder, "--fpr", "0.1") == 2
    assert "is not calibrated" in capsys.readouterr().err


def test_the_drift_report_is_one_number_and_one_plot(saved, folder, tmp_path, capsys):
    write_images(tmp_path / "other", 255 - small.images(60, seed=4))
    for where, words in (
        (folder, "no sign of drift: 70 images"),
        (tmp_path / "other", "drift: 60"),
    ):
        png = tmp_path / f"{where.name}.png"
        assert run(saved, where, "--drift", png) == 0
        assert words in capsys.readouterr().err
        assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere is not there"),
        (("FOLDER", "nowhere.npy"), "nowhere.npy is not there"),
        (("EMPTY",), "holds no images"),
        (
            ("FOLDER", "--fpr", "0.001"),
            "--fpr is 0.001, and 60 calibration images allow rates from 0.016 on",
        ),
        (("FOLDER", "--fpr", "7"), "fpr is 7.0"),
        (("FOLDER", "--scorer", "nonesuch"), "there is no scorer 'nonesuch'"),
        (("-",), "the list of paths is empty"),
        (("FOLDER", "--out", "FOLDER/0000.png/x"), "cannot write"),
        (("FOLDER", "--out", "EMPTY"), "(it is a directory)"),
        (("FOLDER", "--drift", "FOLDER/0000.png/x.png"), "cannot write"),
        (("FOLDER/0000.png", "--out", "FOLDER/0000.png"), "0000.png, which this run reads; give"),
        (
            ("FOLDER", "--out", "EMPTY/x", "--drift", "EMPTY/../empty/x"),
            "which this run writes, too",
        ),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    saved, folder, tmp_path, capsys, monkeypatch, words, message
):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    names = {"FOLDER": str(folder), "EMPTY": str(tmp_path / "empty")}
    before = sorted(tmp_path.rglob("*"))
    words = [
        word.replace("FOLDER", names["FOLDER"]).replace("EMPTY", names["EMPTY"]) for word in words
    ]
    assert run(saved, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(on_disk, tmp_path):
    """100,000 images, and no more memory than 10,000."""
    import subprocess

    program = (
        "import resource, sys; from ecood import cli;"
        "code = cli.main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    peaks = []
    for count in (10_000, 100_000):
        np.save(tmp_path / "x.npy", np.tile(small.images(1000, seed=5), (count // 1000, 1, 1, 1)))
        words = ["score", "--scorer", on_disk, tmp_path / "x.npy", "--out", tmp_path / "x.csv"]
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, words)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stderr.split()[-1]) / 1024)
        assert (tmp_path / "x.csv").read_text().count("\n") == count + 1
    print("peak memory of 10,000 and 100,000 images: {:.0f} and {:.0f} MiB".format(*peaks))
    assert peaks[1] - peaks[0] < 30


def test_a_reader_that_has_seen_enough_ends_it_quietly(on_disk, folder):
    import subprocess

    if shutil.which("head") is None:
        pytest.skip("needs a shell's head")
    command_line = f"{sys.executable} -m ecood score --scorer {on_disk} {folder} | head -1"
    done = subprocess.run(command_line, shell=True, capture_output=True, text=True)
    assert done.stdout == ",".join(COLUMNS) + "\n"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_full_disk_is_one_sentence_and_exit_code_2(on_disk, folder):
    import pathlib
    import subprocess

    if not pathlib.Path("/dev/full").exists():
        pytest.skip("needs Linux's /dev/full")
    words = [sys.executable, "-m", "ecood", "score", "--scorer", str(on_disk), str(folder)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert told[-1] == "python -m ecood: writing the output failed (No space left on device)."
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_full_disk_leaves_no_rows(scorer, tmp_path):
    resource = pytest.importorskip("resource")
    words = ["score", "photos", "--out", str(tmp_path / "s.csv")]
    arguments = cli.build_parser("score").parse_args(words)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="large"), output.opened(arguments, scorer) as opened:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
            opened.add([{"path": "x" * 100, "index": 0, "score": 1.0}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_pipes_and_links_stay_what_they_are(saved, folder, tmp_path):
    import threading

    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert run(saved, folder, "--out", tmp_path / "pipe") == 0
    reader.join(timeout=10)
    assert len(rows(received[0])) == 70
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    assert run(saved, folder, "--out", tmp_path / "link.csv") == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_text() == received[0]


def test_odd_names_come_out_as_they_went_in(on_disk, tmp_path):
    import subprocess

    names = [b"a\rb.png", b"c,d.png", b"caf\xe9.png", b'e"f.png']
    (tmp_path / "photos").mkdir()
    folder = os.fsencode(tmp_path / "photos")
    try:
        for name, path in zip(names, write_images(tmp_path, small.images(4)), strict=True):
            os.rename(path, folder + b"/" + name)
    except OSError:
        pytest.skip("this file system takes text alone")
    done = subprocess.run(
        [sys.executable, "-m", "ecood", "score", "--scorer", str(on_disk), "-"],
        input=b"".join(folder + b"/" + name + b"\n" for name in names if b"\r" not in name),
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"}, capture_output=True, check=True,
    )  # fmt: skip
    found = rows(done.stdout.decode(errors="surrogateescape"))
    assert [os.fsencode(os.path.basename(row["path"])) for row in found] == names[1:]
    out = tmp_path / "s.csv"
    assert (
        cli.main(["score", "--scorer", str(on_disk), str(tmp_path / "photos"), "--out", str(out)])
        == 0
    )
    with open(out, newline="", encoding="utf-8", errors="surrogateescape") as file:
        found = list(csv.DictReader(file))
    assert [os.fsencode(os.path.basename(row["path"])) for row in found] == names


def test_files_that_are_not_taken_are_counted_and_are_no_damage(saved, folder, capsys, tmp_path):
    for name in ("a.heic", "b.heic", "notes.txt"):
        (folder / name).write_bytes(b"")
    assert run(saved, folder, "--json-summary", tmp_path / "s.json") == 0
    told = capsys.readouterr()
    assert told.err.splitlines()[-2] == "not taken for images: 2 .heic, 1 .txt"
    assert len(rows(told.out)) == 70
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["not_taken_by_suffix"] == {".heic": 2, ".txt": 1}
    assert (found["passed_over"], found["passed_over_by_suffix"]) == (0, {})


def interrupted_at(monkeypatch, chunk):
    """Interrupts the scoring of the chunk of that number, from 1 on."""
    rows_of, calls = command._rows, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == chunk:
            raise KeyboardInterrupt
        return rows_of(*arguments)

    monkeypatch.setattr(command, "_rows", stop)
    return calls


@pytest.mark.parametrize("torn", [b"", b'"photos/0033', b'"photos/0032.png",0,1.2'])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_interrupted_scoring_resumes(saved, folder, tmp_path, monkeypatch, capsys, kind, torn):
    words = (folder, "--format", kind, "--fpr", "0.1", "--drift", tmp_path / "drift.png")
    assert run(saved, *words, "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2)
        assert run(saved, *words, "--out", tmp_path / "out") == 130
    (part,) = tmp_path.glob(".out.*.part")
    assert "run the same command again to resume" in capsys.readouterr().err
    with part.open("ab") as file:
        file.write(torn)  # as a kill leaves it
    calls = interrupted_at(monkeypatch, None)
    assert run(saved, *words, "--out", tmp_path / "out") == 0
    assert [len(items) for _, items, *_ in calls] == [32, 6]
    assert "resuming after 32 images" in capsys.readouterr().err
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not part.exists()


def test_other_settings_or_a_list_do_not_resume(saved, folder, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2)
        assert run(saved, folder, "--out", tmp_path / "out") == 130
    calls = interrupted_at(monkeypatch, None)
    assert run(saved, folder, "--out", tmp_path / "out", "--fpr", "0.1") == 0
    assert len(calls) == 3
    calls = interrupted_at(monkeypatch, 2)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{folder}\n"))
    before = set(tmp_path.iterdir())
    assert run(saved, "-", "--out", tmp_path / "listed") == 130
    assert set(tmp_path.iterdir()) == before


def test_only_one_process_writes_an_output(saved, folder, tmp_path, monkeypatch, capsys):
    rows_of = command._rows

    def another(*arguments):
        monkeypatch.setattr(command, "_rows", rows_of)
        assert run(saved, folder, "--out", tmp_path / "out") == 2
        assert "another process is writing" in capsys.readouterr().err
        return rows_of(*arguments)

    monkeypatch.setattr(command, "_rows", another)
    assert run(saved, folder, "--out", tmp_path / "out") == 0
    assert len(rows((tmp_path / "out").read_text())) == 70
