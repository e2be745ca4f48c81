"""Where `python -m ecood score` writes: streams, full disks, odd names; a run that resumes."""

import contextlib
import csv
import errno
import io
import os
import shutil
import sys

import numpy as np
import pytest

import ecood
from ecood import cli, weights
from ecood.cli import output
from ecood.cli import score as command
from tests import small
from tests.cli.scoring import COLUMNS, rows, run
from tests.data.image_files import write_images

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_a_reader_that_has_seen_enough_ends_it_quietly(on_disk, folder):
    import subprocess

    if shutil.which("head") is None:
        pytest.skip("needs a shell's head")
    command_line = f"{sys.executable} -m ecood score --scorer {on_disk} {folder} | head -1"
    done = subprocess.run(command_line, shell=True, capture_output=True, text=True)
    assert done.stdout == ",".join(COLUMNS) + "\n"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize("stream", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_path_is_written_to_and_not_replaced(
    on_disk, folder, tmp_path, stream
):
    import subprocess

    if not os.path.exists(stream):
        pytest.skip(f"needs {stream}")
    words = [sys.executable, "-m", "ecood", "score", "--scorer", str(on_disk), str(folder)]
    summary = ["--json-summary", "/dev/stderr"]
    with (tmp_path / "log").open("w") as log, (tmp_path / "err").open("w") as told:
        log.write("before\n")
        log.flush()
        done = subprocess.run([*words, "--out", stream, *summary], stdout=log, stderr=told)
    assert done.returncode == 0
    first, *rest = (tmp_path / "log").read_text().splitlines()
    assert first == "before" and rest[0] == ",".join(COLUMNS) and len(rest) == 71
    assert '"scored": 70' in (tmp_path / "err").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err", "log", "photos"]


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


def interrupted_at(monkeypatch, chunk, failure=KeyboardInterrupt):
    """Interrupts the scoring of the chunk of that number, from 1 on, or has it fail."""
    rows_of, calls = command._rows, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == chunk:
            raise failure
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


def test_it_resumes_from_another_directory(saved, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2)
        assert run(saved, folder, "--out", tmp_path / "out") == 130
    monkeypatch.chdir(folder)
    calls = interrupted_at(monkeypatch, None)
    assert run(saved, folder, "--out", tmp_path / "out") == 0
    assert [len(items) for _, items, *_ in calls] == [32, 6]


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


def test_rows_of_another_version_do_not_resume(saved, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ecood, "__version__", "0.0.1")
        interrupted_at(patch, 2)
        assert run(saved, folder, "--out", tmp_path / "out") == 130
    calls = interrupted_at(monkeypatch, None)
    assert run(saved, folder, "--out", tmp_path / "out") == 0
    assert len(calls) == 3


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


def test_another_folders_images_do_not_resume(saved, tmp_path, monkeypatch):
    for name, seed in (("a", 2), ("b", 3)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", small.images(70, seed=seed))
    monkeypatch.chdir(tmp_path / "a")
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2)
        assert run(saved, "x.npy", "--out", tmp_path / "out") == 130
    monkeypatch.chdir(tmp_path / "b")
    calls = interrupted_at(monkeypatch, None)
    assert run(saved, "x.npy", "--out", tmp_path / "out") == 0
    assert len(calls) == 3
    assert run(saved, "x.npy", "--out", tmp_path / "whole") == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_nor_do_images_of_a_file_that_was_written_anew(saved, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", small.images(70, seed=2))
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2)
        assert run(saved, tmp_path / "x.npy", "--out", tmp_path / "out") == 130
    np.save(tmp_path / "x.npy", small.images(71, seed=3))
    calls = interrupted_at(monkeypatch, None)
    assert run(saved, tmp_path / "x.npy", "--out", tmp_path / "out") == 0
    assert len(calls) == 3


def test_rows_of_files_that_changed_since_are_scored_again(saved, folder, tmp_path, monkeypatch):
    photos = tmp_path / "copies"
    shutil.copytree(folder, photos)
    with monkeypatch.context() as patch:
        interrupted_at(patch, 3)
        assert run(saved, photos, "--out", tmp_path / "out") == 130
    shutil.copy(photos / "0050.png", photos / "0040.png")
    (photos / "0045.png").unlink()
    calls = interrupted_at(monkeypatch, None)
    assert run(saved, photos, "--out", tmp_path / "out") == 0
    assert sum(len(items) for _, items, *_ in calls) == 69 - 40
    assert run(saved, photos, "--out", tmp_path / "whole") == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("how", ["another folder", "a link to another file", "times kept"])
def test_rows_of_other_images_under_the_same_names_are_not_kept(saved, tmp_path, monkeypatch, how):
    """The others are as old, and of the same names and sizes."""
    ours, other = tmp_path / "photos", tmp_path / "other"
    names = [path.name for path in write_images(other, small.images(70, seed=3))]
    if how == "a link to another file":
        write_images(tmp_path / "store", small.images(70, seed=2))
        ours.mkdir()
        for name in names:
            (ours / name).symlink_to(tmp_path / "store" / name)
    else:
        write_images(ours, small.images(70, seed=2))
    with monkeypatch.context() as patch:
        interrupted_at(patch, 3)
        assert run(saved, ours, "--out", tmp_path / "out") == 130
    first = 0 if how == "another folder" else 40
    if how == "another folder":
        ours.rename(tmp_path / "old")
        other.rename(ours)
    elif how == "a link to another file":
        (ours / names[40]).unlink()
        (ours / names[40]).symlink_to(other / names[40])
    else:
        status = (ours / names[40]).stat()
        shutil.copyfile(other / names[40], ours / names[40])
        os.utime(ours / names[40], ns=(status.st_atime_ns, status.st_mtime_ns))
    calls = interrupted_at(monkeypatch, None)
    assert run(saved, ours, "--out", tmp_path / "out") == 0
    assert sum(len(items) for _, items, *_ in calls) == 70 - first
    assert run(saved, ours, "--out", tmp_path / "whole") == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("failure", [RuntimeError("RESOURCE_EXHAUSTED"), OSError(28, "full")])
def test_a_run_that_fails_resumes(saved, folder, tmp_path, monkeypatch, capsys, failure):
    out, rows_of = tmp_path / "out", command._rows
    for chunk, rest in ((1, 70), (2, 38)):
        before = set(tmp_path.iterdir())
        with monkeypatch.context() as patch, contextlib.suppress(RuntimeError):
            interrupted_at(patch, chunk, failure)
            assert run(saved, folder, "--out", out) == 2
        kept = set(tmp_path.iterdir()) - before
        assert len(kept) == chunk - 1 and not out.exists()
        assert ("run the same command again" in capsys.readouterr().err) == (chunk > 1)
        assert sum(part.read_bytes().count(b"\n") for part in kept) == 70 - rest
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="while it looks"):
        patch.setattr(output, "_kept", lambda part: raising(RuntimeError("while it looks")))
        run(saved, folder, "--out", out)
    assert command._rows is rows_of
    assert run(saved, folder, "--out", out) == 0
    assert "resuming after 32 images" in capsys.readouterr().err
    assert len(rows(out.read_text())) == 70 and not list(tmp_path.glob(".out*"))


def raising(error):
    raise error


@pytest.mark.parametrize("option", ["--json-summary", "--drift"])
def test_all_files_appear_or_none(saved, folder, tmp_path, capsys, option):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs Linux's /dev/full")
    words = {"--json-summary": tmp_path / "s.json", "--drift": tmp_path / "d.png"}
    words = (
        folder,
        *(str(word) for pair in (words | {option: "/dev/full"}).items() for word in pair),
    )
    assert run(saved, *words, "--out", tmp_path / "s.csv") == 2
    told = capsys.readouterr().err.splitlines()
    assert "the scores so far are kept: run the same command again to resume" in told
    assert "writing /dev/full failed (No space left on device); nothing was changed" in told[-1]
    found = sorted(path.name for path in tmp_path.iterdir())
    assert len(found) == 2 and found[0].startswith(".s.csv.") and found[1] == "photos"


def test_what_other_runs_kept_of_an_output_is_removed_and_nothing_else(
    saved, folder, tmp_path, monkeypatch
):
    ours, another = (tmp_path / f"of more than thirty-two letters, {each}.csv" for each in "ab")
    parts = []
    for out, fpr in ((ours, 0.1), (ours, 0.2), (ours, 0.3), (another, 0.1)):
        with monkeypatch.context() as patch:
            interrupted_at(patch, 2)
            assert run(saved, folder, "--fpr", fpr, "--out", out) == 130
        parts += {*tmp_path.glob(".of*")} - {*parts}
    locked, *own, _ = parts
    assert len(own) == 2
    foreign = locked.with_suffix(".partial")
    foreign.write_text("somebody's")
    os.mkfifo(locked.with_name(f"{locked.name[:-17]}{'0' * 12}.part"))
    with locked.open("rb+") as file:
        assert weights.only_writer(file)
        assert run(saved, folder, "--out", ours) == 0
    left = {part for part in tmp_path.glob(".of*") if part.is_file()}
    assert left == {foreign, *parts} - set(own)


def test_where_a_file_system_has_no_locks_scores_are_written_all_the_same(
    saved, folder, tmp_path, monkeypatch
):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run(saved, folder, "--out", tmp_path / "s.csv") == 0
    assert [path.name for path in tmp_path.glob("*s.csv*")] == ["s.csv"]


def test_the_name_says_the_format_if_nothing_else_does(
    saved, folder, tmp_path, monkeypatch, capsys
):
    one = folder / "0000.png"
    monkeypatch.chdir(tmp_path)
    for words, first in (
        (("--out", "s.jsonl"), "{"),
        (("--out", "s.NDJSON"), "{"),
        (("--out", "s.txt"), "p"),
        (("--out", "t.jsonl", "--format", "csv"), "p"),
        (("--out", "-"), "p"),
    ):
        assert run(saved, one, *words) == 0
        out = tmp_path / words[1]
        assert (out.read_text() if out.exists() else capsys.readouterr().out)[0] == first
        capsys.readouterr()
    assert not (tmp_path / "-").exists()


def test_a_path_that_is_given_twice_has_two_rows_after_resuming_too(
    saved, folder, tmp_path, monkeypatch
):
    words = (folder, folder / "0000.png", folder / "0001.png")
    assert run(saved, *words, "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        interrupted_at(patch, 3)
        assert run(saved, *words, "--out", tmp_path / "out") == 130
    assert run(saved, *words, "--out", tmp_path / "out") == 0
    assert len(rows((tmp_path / "out").read_text())) == 72
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("length", [240, 251, 252, 300])
def test_a_long_name_is_written_or_refused_before_the_work(
    saved, folder, tmp_path, capsys, monkeypatch, length
):
    calls = interrupted_at(monkeypatch, None)
    out = tmp_path / ("x" * (length - 4) + ".csv")
    code = run(saved, folder, "--out", out)
    if length <= 255:
        assert code == 0 and len(rows(out.read_text())) == 70
    else:
        assert code == 2 and not calls
        error = capsys.readouterr().err
        assert f"cannot write {out} (File name too long); give another name." in error
