import dataclasses
import io
import json
import re
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import cli, conformal, encoders, splits
from ecood.batches import map_images
from ecood.cli import score as score_command
from ecood.progress import progress_bar
from tests import small
from tests.cli.scoring import COLUMNS, PARTS, rows, run
from tests.data.image_files import write_images

pytestmark = pytest.mark.usefixtures("small_chunks")


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


def test_an_encoder_that_gives_nan_leaves_rows_that_json_can_read(tmp_path, monkeypatch):
    """Of a black image, whose norm is 0; it is the most OOD there is."""
    unit = encoders.encoder(to_norm_1)
    images = small.images(60)
    fitted = ecood.score.fit(small.blank_flow(), unit, images[:40], noise_strength=0.1)
    fitted = fitted.calibrate(images[40:])
    monkeypatch.setattr(ecood.score, "load", lambda name, **_: fitted)
    np.save(tmp_path / "x.npy", np.concatenate([0 * images[:1], small.images(3, seed=1)]))
    out = tmp_path / "s.jsonl"
    assert run("mine", tmp_path / "x.npy", "--out", out) == 0
    black, *others = map(strictly, out.read_text().splitlines())
    assert black["similarity"] is black["noise_scale"] is None
    assert black["score"] > 1e38 and None not in [v for row in others for v in row.values()]
    page = tmp_path / "r.html"
    words = ("report", tmp_path / "x.npy", "--scorer", "mine", "--out", page)
    assert cli.main([*map(str, words)]) == 0
    text = page.read_text()
    strictly(re.search(r'id="data"[^>]*>(.*?)</script>', text, re.DOTALL).group(1))
    assert text.count("The encoder gives NaN or infinity for this image.") == 1


def to_norm_1(images):
    x = images.reshape(images.shape[0], -1) / 255
    return x / jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True))


def strictly(text):
    """JSON as browsers and other languages read it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


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
        "made_from": 0,
        "drift": drift._asdict(),
        "fpr": 0.05,
        "fpr_between": list(conformal.realised_fpr(60, 0.05)),
        "threshold": scorer.threshold(0.05),
        "flagged": flagged,
        "expected_by_chance": pytest.approx(69 * 3 / 61),  # k / (n + 1) of n = 60 to calibrate on
    }
    told = capsys.readouterr().err.splitlines()
    assert told[-3].startswith(f"flagged {flagged} at a false-positive rate of 0.05 (0.0")
    assert told[-3].endswith("; 3.39 expected by chance")
    assert told[-2].startswith("no sign of drift: 69 images")
    assert run(saved, folder, "--fpr", "0.1", "--json-summary", out) == 1
    assert json.loads(out.read_text())["flagged"] == scorer.is_ood(images, 0.1).sum()


def test_images_that_the_scorer_was_made_from_are_told_and_tested_for_nothing(
    scorer, saved, folder, capsys, tmp_path
):
    write_images(folder / "fitted", splits.draw(small.images(60), calibration=0.0).train[:7])
    words = ("--out", tmp_path / "s.csv", "--json-summary", tmp_path / "s.json", "--fpr", "0.1")
    assert run(saved, folder, *words) == 0
    told = "the scorer was made from 7 of the 77 images: such scores say nothing about new images"
    assert told in capsys.readouterr().err
    found = rows((tmp_path / "s.csv").read_text())
    for row in found:
        fitted = "fitted" in row["path"]
        assert (row["p_value"] == "", row["is_ood"] == "") == (fitted, fitted) and row["score"]
    new, summary = small.images(70, seed=2), json.loads((tmp_path / "s.json").read_text())
    assert summary["drift"] == scorer.drift(new)._asdict()
    assert summary["flagged"] == int(scorer.is_ood(new, 0.1).sum())
    assert (summary["made_from"], summary["scored"]) == (7, 77)
    assert summary["expected_by_chance"] == pytest.approx(70 * 6 / 61)


def test_where_all_images_are_the_fitted_ones_nothing_is_flagged(saved, tmp_path, capsys):
    write_images(tmp_path / "fitted", splits.draw(small.images(60), calibration=0.0).train)
    assert run(saved, tmp_path / "fitted", "--json-summary", tmp_path / "s.json") == 0
    assert "flagged" not in (told := capsys.readouterr().err) and "drift" not in told
    assert json.loads((tmp_path / "s.json").read_text())["made_from"] == 57
    words = ("--drift", tmp_path / "d.png", "--out", tmp_path / "s.csv")
    assert run(saved, tmp_path / "fitted", *words) == 2
    assert "--drift needs new images" in capsys.readouterr().err
    assert run(saved, tmp_path / "fitted", *words[2:]) == 0
    assert "resuming after 57 images" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fitted", "s.csv", "s.json"]


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
    assert told.count("the model takes") == 4  # three times, and in the end
    assert f"passed over for the same reason: {tmp_path / 'odd' / '0099.png'}\n" in told
    assert not (tmp_path / "s.csv").exists()


def test_a_scorer_that_is_not_calibrated_scores_without_p_values(
    scorer, folder, monkeypatch, capsys
):
    plain = dataclasses.replace(scorer, calibration=None)
    monkeypatch.setattr(ecood.score, "load", lambda name, **_: plain)
    assert run("plain", folder / "0000.png") == 0
    told = capsys.readouterr()
    assert rows(told.out)[0]["p_value"] == ""
    assert told.err.splitlines()[-1] == "scored 1 image, passed over 0"
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
            "--fpr is 0.001, at which 60 calibration images cannot flag anything; ask for 0.017",
        ),
        (
            ("FOLDER", "--fpr", "0.001"),
            "`fit` puts a tenth of its images aside for that, `calibrate`",
        ),
        (("FOLDER", "--fpr", "7"), "fpr is 7.0"),
        (("FOLDER", "--trust", "a:b"), "mine is a scorer that needs no code of others; leave --t"),
        (("FOLDER", "--fpr", "nan", "--scorer", "nonesuch"), "fpr is nan; expected a rate between"),
        (
            ("FOLDER/0000.png", "--embeddings", "x", "--scorer", "nonesuch"),
            "--embeddings goes with one .npy or .npz file of images, not with",
        ),
        (("FOLDER", "--drift", "EMPTY/d.jpg"), "d.jpg; expected the name of a picture that ends"),
        (("FOLDER", "--json-summary", "-"), "cannot write - (it stands for standard output); give"),
        (("",), "'' is not there; expected a folder"),
        (("FOLDER", " "), "' ' is not there; expected a folder"),
        (("FOLDER", "--key", ""), "--key is '', and no .npz file is given"),
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


def test_chunks_are_worked_on_at_once_after_the_first_and_come_in_order(monkeypatch):
    monkeypatch.setattr(score_command, "CHUNK", 2)
    running, meeting = [], threading.Barrier(2)

    def work(chunk):
        running.append(chunk[0])
        if chunk[0]:
            meeting.wait(60)  # for ever, were one of the pair not begun before the other's end
        else:
            assert running == [0]
        return sum(chunk)

    with progress_bar(10, "working") as bar:
        found = list(score_command.in_chunks(iter(range(10)), work, bar, 2))
    assert found == [1, 5, 9, 13, 17]


def test_whoever_takes_no_more_waits_for_a_batch_and_not_for_a_chunk(monkeypatch):
    monkeypatch.setattr(score_command, "CHUNK", 1)
    most, begun, done = 2000, threading.Event(), []

    def work(chunk):
        for _ in range(1 if chunk == [0] else most):
            map_images(jnp.negative, images=np.zeros((1, 1)))
            done.append(chunk)
            begun.set()
            time.sleep(0.005)  # as long as a batch takes

    with progress_bar(3, "working") as bar:
        chunks = score_command.in_chunks(iter(range(3)), work, bar, 2)
        next(chunks)
        begun.wait(60)
        chunks.close()
    assert len(done) < most / 2


def test_one_chunk_at_a_time_where_parts_may_call_back(scorer):
    assert score_command.at_once(scorer) == (1 if jax.device_count() > 1 else 2)
    assert score_command.at_once(dataclasses.replace(scorer, made_by="my_package.model:make")) == 1
