import dataclasses

import numpy as np
import pytest

import ecood.score
from ecood import cli, encoders, splits
from tests import small
from tests.data.image_files import write_images


def run(*words):
    return cli.main(["calibrate", *map(str, words)])


def test_a_folder_becomes_the_calibration_of_another_directory(on_disk, tmp_path, capsys):
    images = small.images(80, seed=3)
    write_images(tmp_path / "photos", images)[0].write_bytes(b"damaged")
    write_images(tmp_path / "photos" / "copies", images[5:9])
    fitted = splits.draw(small.images(60), calibration=0.0).train
    write_images(tmp_path / "photos" / "fitted", fitted[:7])
    out = tmp_path / "calibrated"
    assert run(tmp_path / "photos", "--scorer", on_disk, "--out", out) == 1
    told = capsys.readouterr()
    before, after = ecood.score.load(on_disk), ecood.score.load(out)
    expected = before.calibrate(images[1:])
    np.testing.assert_array_equal(after.calibration, expected.calibration)
    assert after.identity == before.identity and len(after.calibration) == 79
    assert after.threshold(0.05) == expected.threshold(0.05) != before.threshold(0.05)
    for words in (
        "left out 7 images that the scorer was made from",
        "4 images are copies, which count as one",
        "0000.png cannot be decoded",
        "passed over 1 image\n",
    ):
        assert words in told.err
    assert "calibration:    79 images\n" in told.out
    assert told.out.endswith(f"next: python -m ecood score FOLDER --scorer {out} --fpr 0.05\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibrated", "photos"]


def test_embeddings_of_elsewhere_go_beside_the_images(scorer, tmp_path, monkeypatch):
    load, encoder = ecood.score.load, encoders.elsewhere(192, name=scorer.encoder.name)
    outside = dataclasses.replace(scorer, state=scorer.state.replace(encoder=encoder))
    monkeypatch.setattr(ecood.score, "load", lambda name, **_: outside)
    fitted = splits.draw(small.images(60), calibration=0.0).train
    images = np.concatenate([fitted[:3], small.images(30, seed=4)])
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "e.npy", np.asarray(scorer.encoder.embed(images)))
    words = (tmp_path / "x.npy", "--scorer", "outside", "--out", tmp_path / "new")
    assert run(*words, "--embeddings", tmp_path / "e.npy") == 0
    np.testing.assert_allclose(
        load(tmp_path / "new").calibration, scorer.calibrate(images[3:]).calibration, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("FITTED", "--scorer", "MINE", "--out", "OUT/new"), "was made from all of these images"),
        (("PHOTOS", "--scorer", "MINE", "--out", "MINE"), "is there already; remove it"),
        (("PHOTOS", "--scorer", "MINE", "--out", "PHOTOS/new/../.."), "is there already"),
        (("PHOTOS", "--scorer", "fashion_mnist", "--out", "OUT/new"), "can be used: "),
        (("PHOTOS", "--scorer", "nobody", "--out", "OUT/new"), "there is no scorer 'nobody'"),
        (("nowhere", "--scorer", "MINE", "--out", "OUT/new"), "nowhere is not there"),
        (("PHOTOS", "--scorer", "x.npz", "--out", "OUT/new"), "there is no file x.npz"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    on_disk, tmp_path, capsys, words, message
):
    write_images(tmp_path / "photos", small.images(3, seed=5))
    write_images(tmp_path / "fitted", splits.draw(small.images(60), calibration=0.0).train[:4])
    before = sorted(tmp_path.rglob("*"))
    places = {"PHOTOS": tmp_path / "photos", "FITTED": tmp_path / "fitted", "MINE": on_disk}
    for name, place in (places | {"OUT": tmp_path}).items():
        words = [word.replace(name, str(place)) for word in words]
    assert run(*words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_exported_scorer_keeps_its_calibration(on_disk, tmp_path, capsys):
    ecood.score.load(on_disk).export(tmp_path / "x.npz", ["cpu"])
    write_images(tmp_path / "photos", small.images(3, seed=5))
    words = (tmp_path / "photos", "--scorer", tmp_path / "x.npz", "--out", tmp_path / "new")
    assert run(*words) == 2
    assert "is an exported scorer, whose calibration is part of" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
