import pytest

from ecood import cli, data
from ecood.data import prepare
from tests.data import archive_files


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user with archives on the disk, and no network."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    known = {}
    for name in ("cifar10", "svhn_cropped"):
        known[name] = archive_files.remotes(archive_files.write(tmp_path / "home", name))
    known["celeb_a"] = archive_files.remotes(archive_files.write_celeba(tmp_path / "home")[0])
    monkeypatch.setattr(prepare, "official", known.__getitem__)
    return tmp_path / "home"


def test_archives_become_data_that_auto_finds(home, tmp_path, capsys):
    words = ["prepare", "cifar10", "svhn_cropped", "celeb_a", "--archives", str(home)]
    assert cli.main(words) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"cifar10: {tmp_path / 'tfds' / 'cifar10' / '3.0.2'}" and len(told) == 3
    pair = data.load("auto", "cifar10", "svhn_cropped")
    assert pair.source == "tfds" and len(pair.id_train) == 25 and len(pair.ood_test) == 8
    assert cli.main(["prepare", "cifar10"]) == 0  # nothing to do, and nothing to download


def test_another_directory(home, tmp_path):
    out = tmp_path / "out"
    words = ["prepare", "cifar10", "--archives", str(home), "--out", str(out)]
    assert cli.main(words) == 0
    assert [path.name for path in out.iterdir()] == ["cifar10"]
    assert data.load_images(out, "cifar10", "test").shape == (8, 32, 32, 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["celeb_a"], "must be fetched by hand and prepared by `python -m ecood prepare celeb_a"),
        (["cifar10", "--archives", "nowhere"], "nowhere is not there; expected a folder"),
    ],
)
def test_refusals(home, capsys, words, told):
    assert cli.main(["prepare", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_user_without_a_home(home, monkeypatch, capsys):
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert cli.main(["prepare", "cifar10"]) == 2
    assert "no home" in capsys.readouterr().err


def test_unknown_data_sets_are_told_which_there_are(capsys):
    with pytest.raises(SystemExit):
        cli.main(["prepare", "imagenet"])
    assert "cifar10" in capsys.readouterr().err
