"""No command writes over what it reads, in any option."""

import io
import os
import pathlib
import sys

import pytest

from ecood import cli
from tests import small
from tests.data.image_files import write_images


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path, on_disk, monkeypatch):
    """A folder with images, some of them through links, and a scorer; nothing in it may change."""
    write_images(tmp_path / "photos", small.images(3))
    write_images(tmp_path / "store" / "inner", small.images(1, seed=1))
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "one.png").write_bytes((tmp_path / "photos" / "0000.png").read_bytes())
    (tmp_path / "photos" / "other.png").symlink_to(tmp_path / "one.png")
    (tmp_path / "mine").mkdir()
    for path in on_disk.iterdir():
        (tmp_path / "mine" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "x.npz").write_bytes(b"exported")
    (tmp_path / "e.npy").write_bytes(b"embeddings")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    yield tmp_path
    assert contents(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))


NEXT = "would be one of the images of this folder the next time"
PICTURE = "is the name of a picture, and this is text"
OPTIONS = [("score", "--out"), ("score", "--drift"), ("score", "--json-summary")]
OPTIONS += [("report", "--out"), ("report", "--json-summary")]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
@pytest.mark.parametrize(
    ("paths", "output", "what"),
    [
        (["photos"], "photos/0001.png", NEXT),
        (["photos"], "photos/new.png", NEXT),
        (["photos"], "photos/linked/../photos/new/new.JPG", NEXT),
        (["photos/0001.png"], "photos/../photos/0001.png", "this run reads"),
        (["photos"], "mine/flow.safetensors", "this run reads"),
        (["photos"], "mine/scorer.json", "this run reads"),
        (["photos"], "store/inner/0000.png", "this run reads as photos/linked/inner/0000.png"),
        (["photos"], "one.png", "this run reads as photos/other.png"),
        (["-"], "photos/0002.png", "this run reads as photos/0002.png"),
    ],
)
def test_what_is_read_is_not_written(
    place, capsys, monkeypatch, command, option, paths, output, what
):
    monkeypatch.setattr(sys, "stdin", io.StringIO("photos/0000.png\nphotos/0002.png\n"))
    words = [command, *paths, "--scorer", "mine", option, output]
    if command == "report" and option != "--out":
        words += ["--out", "r.html"]
    if what.startswith("this run reads as") and option != "--drift":
        what = PICTURE  # told before what a link or a list leads to
    assert cli.main(words) == 2
    *_, told = capsys.readouterr().err.splitlines()
    assert told == (f"python -m ecood: cannot write {output}, which {what}; give another name.")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (
            ["score", "photos", "--embeddings", "e.npy", "--out", "e.npy"],
            "e.npy, which this run re",
        ),
        (["score", "photos", "--scorer", "x.npz", "--out", "x.npz"], "x.npz, which this run reads"),
        (["report", "photos", "--scorer", "x.npz", "--out", "x.npz"], "x.npz, which this run read"),
        (["fit", "photos", "--out", "mine"], "mine is there already"),
        (["import", "normflows", "x.npz", "--out", "x.npz"], "x.npz, which this run reads"),
    ],
)
def test_other_inputs_are_not_written(place, capsys, words, what):
    assert cli.main(words) == 2
    assert what in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [
        ["score", "photos/0001.png", "--out", "photos/0002.png"],
        ["score", "photos/0001.png", "--out", "new.JPG"],
        ["score", "photos", "--json-summary", "new.tiff"],
        ["report", "photos", "--out", "r.webp"],
        ["report", "photos", "--out", "r.html", "--json-summary", "r.png"],
    ],
)
def test_text_is_not_written_under_the_name_of_a_picture(place, capsys, words):
    assert cli.main([*words, "--scorer", "mine"]) == 2
    assert f"which {PICTURE}; give another name." in capsys.readouterr().err


def test_the_files_of_a_shipped_scorer_are_not_written(place, capsys):
    import ecood

    output = pathlib.Path(ecood.__file__).parent / "pretrained" / "mnist" / "bank.safetensors"
    assert cli.main(["score", "photos", "--scorer", "mnist", "--out", str(output)]) == 2
    assert f"cannot write {output}, which this run reads" in capsys.readouterr().err


def test_a_picture_beside_the_folder_and_a_table_in_it_are_written(tmp_path, saved):
    write_images(tmp_path / "photos", small.images(3))
    words = ["score", str(tmp_path / "photos"), "--scorer", saved]
    words += ["--out", str(tmp_path / "photos" / "s.csv"), "--drift", str(tmp_path / "photos.png")]
    assert cli.main(words) == 0
    assert cli.main(words) == 0  # over what the first wrote


def test_where_a_run_is_kept_nothing_of_the_users_is_read_or_removed(tmp_path, capsys):
    write_images(tmp_path / "a.run" / "flow", small.images(50))
    words = ["fit", "--out", str(tmp_path / "a"), "--encoder", "pixels"]
    assert cli.main([*words, str(tmp_path / "a.run")]) == 2
    assert "a.run, which this run reads; give another name" in capsys.readouterr().err
    write_images(tmp_path / "a.run", small.images(1))
    write_images(tmp_path / "photos", small.images(50))
    assert cli.main([*words, str(tmp_path / "photos")]) == 2
    assert "a.run, where the run would be kept until it is done, holds 0000.png" in (
        capsys.readouterr().err
    )
    assert len(os.listdir(tmp_path / "a.run" / "flow")) == 50
