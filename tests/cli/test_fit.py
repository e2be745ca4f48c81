import contextlib
import functools
import io
import json
import os
import re
import sys

import jax
import numpy as np
import pytest

import ecood.score
from ecood import cli, encoders, flows, progress, splits, weights
from ecood.cli import fit as command
from ecood.data import stream
from ecood.errors import InputError
from ecood.train import segment
from tests import small
from tests.data.image_files import write_images

UNKNOWN = "it is not known which images the flow was trained on"


def run(*words):
    return cli.main(["fit", *map(str, words)])


def interrupt(*_, **__):
    raise KeyboardInterrupt


def photos(n, seed=0):
    """One level of a flow: their sides can be halved but once."""
    return small.images(n, seed, shape=(8, 8, 1))[:, :6, :6]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder of images, one damaged and ten copied, fitted: interrupted once, then resumed.

    The only run that trains a flow. Returns the folder and what the resumed run said, on standard
    error and output.
    """
    root = tmp_path_factory.mktemp("fit")
    images = photos(220)
    write_images(root / "photos", images)[7].write_bytes(b"damaged")
    write_images(root / "photos" / "copies", images[100:110])
    words = (root / "photos", "--out", root / "mine", "--encoder", "pixels")
    settings = ("--steps", "25", "--depth", "1", "--width", "4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ecood.score, "fit", interrupt)
        assert run(*words, *settings) == 130
    assert sorted(path.name for path in root.iterdir()) == ["mine.run", "photos"]
    assert len((root / "mine.run" / "flow" / "log.jsonl").read_text().splitlines()) == 1
    told, out = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "make_segment", lambda *_: interrupt)  # no step is left to do
        patch.setattr(progress, "PACE", -1.0)  # a line whenever anything is done
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(out):
            assert run(*words, *settings) == 1
    return root, told.getvalue(), out.getvalue()


def given_flow(directory, trained_on=None):
    flows.save(directory / "flow.safetensors", small.blank_flow().replace(trained_on=trained_on))
    return ("--flow", directory / "flow.safetensors", "--encoder", "pixels")


def parts_of(monkeypatch, *words):
    """Flow, encoder and split, from which the command would make the scorer."""
    made = []

    def fit(*parts, **_):
        made.extend(parts)
        interrupt()

    monkeypatch.setattr(ecood.score, "fit", fit)
    assert run(*words) == 130
    return made


def test_one_directory_is_left_with_a_calibrated_scorer(fitted):
    root, *_ = fitted
    assert sorted(path.name for path in root.iterdir()) == ["mine", "photos"]
    scorer = ecood.score.load(root / "mine")
    assert scorer.image_shape == (6, 6, 1)
    assert len(scorer.calibration) == 21
    card = json.loads((root / "mine" / "card.json").read_text())
    assert card["training_images_unknown"] == []
    assert 0 < card["bits_per_dim_held_out"] < 9


def test_fitting_tells_how_far_it_is(fitted):
    _, told, _ = fitted
    lines = re.findall(r"^fitting: (\d+) of (\d+) images$", told, re.MULTILINE)
    assert len(lines) > 20
    done, totals = zip(*(map(int, line) for line in lines), strict=True)
    assert sorted(done) == list(done)
    assert {done[-1]} == {*totals}


def test_copies_count_once_and_are_told(fitted):
    root, told, _ = fitted
    assert "10 of 229 images are copies of others and do not count\n" in told
    assert "images: 188 to train on, 10 held out, 21 for the calibration\n" in told
    card = json.loads((root / "mine" / "card.json").read_text())
    assert card["images"] == {"given": 229, "train": 188, "held_out": 10, "calibration": 21}
    assert len(ecood.score.load(root / "mine").state.bank) == 188


def test_what_is_damaged_is_passed_over_and_told(fitted):
    _, told, _ = fitted
    assert "passed over: " in told and "0007.png cannot be decoded" in told
    assert told.endswith("passed over 1 image\n")
    assert UNKNOWN not in told


def test_no_image_is_both_in_the_bank_and_in_the_calibration(fitted):
    scorer = ecood.score.load(fitted[0] / "mine")
    assert splits.count_known(photos(220), scorer.flow.trained_on) == 188
    assert splits.count_known(photos(220), scorer.fitted_on) == 198
    with pytest.raises(InputError, match="188 of 220 images were used to train the flow"):
        scorer.calibrate(photos(220))


def test_the_end_tells_what_can_be_known_and_what_comes_next(fitted):
    root, _, out = fitted
    scorer, card = (
        ecood.score.load(root / "mine"),
        json.loads((root / "mine/card.json").read_text()),
    )
    bits, separation = (
        card[name] for name in ("bits_per_dim_held_out", "auroc_of_held_out_against_turned")
    )
    assert bits > 8  # after 25 steps
    assert out.splitlines() == [
        f"{root / 'mine'}: fitted to 229 images in {card['seconds']:.0f} s",
        f"{card['images']['held_out']} held-out images: {bits:.3f} bits/dim, "
        "more than without any model: the flow has diverged, or is hardly trained; "
        f"AUROC {separation:.3f} against themselves turned by a quarter, which chose the noise "
        f"strength, {float(scorer.state.noise_strength):.3g}",
        f"threshold at a false-positive rate of 5%: score > {scorer.threshold(0.05):.4f}; by the "
        "luck of 21 calibration images, 0.1% to 16.1%",
        f"next: python -m ecood report FOLDER --scorer {root / 'mine'} --out report.html",
    ]


def test_the_images_to_train_on_are_kept_up_to_a_size(fitted, tmp_path, monkeypatch, capsys):
    assert len(ecood.score.load(fitted[0] / "mine").thumbnails) == 188
    asked = []

    def fit(*_, thumbnails, **__):
        asked.append(thumbnails)
        interrupt()

    monkeypatch.setattr(ecood.score, "fit", fit)
    write_images(tmp_path / "photos", small.images(60))
    words = (tmp_path / "photos", "--out", tmp_path / "mine", *given_flow(tmp_path))
    assert run(*words, "--no-thumbnails") == 130
    monkeypatch.setattr(command, "MOST_THUMBNAILS", 51 * 192)
    assert run(*words) == 130
    assert "none is kept" not in capsys.readouterr().err
    monkeypatch.setattr(command, "MOST_THUMBNAILS", 51 * 192 - 1)
    assert run(*words) == 130
    assert "none is kept" in capsys.readouterr().err
    assert asked == [False, True, False]


def test_what_is_there_is_not_overwritten(fitted, capsys):
    root, *_ = fitted
    assert run(root / "photos", "--out", root / "mine") == 2
    assert "mine is there already" in capsys.readouterr().err


def test_of_two_that_fit_one_directory_one_is_refused(tmp_path, monkeypatch, capsys):
    write_images(tmp_path / "photos", small.images(60))
    words = (tmp_path / "photos", "--out", tmp_path / "mine", *given_flow(tmp_path))
    unfinished = tmp_path / "mine.run"
    unfinished.mkdir()
    with (unfinished / "lock").open("a") as other:
        if not weights.only_writer(other):
            pytest.skip("needs locks of files")
        assert run(*words) == 2
    assert "another process is fitting" in capsys.readouterr().err
    assert unfinished.exists() and not (tmp_path / "mine").exists()

    def ended(file):
        """The other process ends after this one has asked whether the directory is there."""
        (tmp_path / "mine").mkdir()
        return weights.only_writer(file)

    monkeypatch.setattr(command, "only_writer", ended)
    assert run(*words) == 2
    assert "mine is there already" in capsys.readouterr().err
    assert not unfinished.exists() and not [*(tmp_path / "mine").iterdir()]


def test_info_tells_all_parts_and_what_they_were_made_from(fitted, capsys):
    assert cli.main(["info", str(fitted[0] / "mine")]) == 0
    out = capsys.readouterr().out
    for words in (
        "Glow",
        "depth 1",
        "pixels",
        "float32 [188, 36]",
        "made from:      198 images, which it will not be calibrated on",
        "21 images",
        "fpr   1%:     too few calibration images\n",
        "fpr   5%:     score >",
        "bits_per_dim_held_out",
    ):
        assert words in out
    assert cli.main(["info"]) == 0
    assert "fashion_mnist" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("known", [60, 95])
def test_training_images_of_a_given_flow_are_neither_held_out_nor_calibrated_on(
    tmp_path, monkeypatch, capsys, known
):
    images = small.images(100)
    write_images(tmp_path / "photos", images)
    trained_on = splits.remember(np.concatenate([images[:known], small.images(50, seed=1)]))
    words = given_flow(tmp_path, trained_on)
    out = tmp_path / "mine"
    flow, _, split = parts_of(monkeypatch, tmp_path / "photos", "--out", out, *words)
    np.testing.assert_array_equal(flow.trained_on, trained_on)
    assert [len(part) for part in split] == ([85, 5, 10] if known == 60 else [95, 2, 3])
    for part in (split.held_out, split.calibration):
        assert splits.count_known(part, trained_on) == 0
    assert splits.count_known(split.train, trained_on) == known
    assert "it is not known" not in capsys.readouterr().err


def test_a_file_that_does_not_know_its_images_is_told_of_once(tmp_path, capsys):
    """Grey and coloured images of two sizes; a flow that does not know its images, an encoder that
    has none; and too few images for a threshold at 5%."""
    encoders.save(tmp_path / "encoder.safetensors", encoders.pixels())
    write_images(tmp_path / "photos" / "grey", small.images(30, shape=(12, 12, 1)))
    write_images(tmp_path / "photos" / "colour", small.images(30, shape=(16, 8, 3)))
    words = (*given_flow(tmp_path)[:2], "--encoder", tmp_path / "encoder.safetensors")
    words = (tmp_path / "photos", "--out", tmp_path / "mine", *words)
    assert run(*words) == 2
    assert "expected images of one size: add --resize SIDE" in capsys.readouterr().err
    assert run(*words, "--resize", "8x8") == 0
    told = capsys.readouterr()
    assert told.err.startswith("30 images are grey and 30 are in colour: all become RGB\n")
    assert told.out.endswith(f"--scorer {tmp_path / 'mine'} --out report.html --resize\n")
    assert told.err.count("it is not known") == told.err.count(UNKNOWN) == 1
    assert "rate of 5%: too few calibration images (6, and the rate needs 19: some 190" in told.out
    assert ecood.score.load(tmp_path / "mine").image_shape == (8, 8, 3)
    assert not (tmp_path / "mine.run").exists()
    card = json.loads((tmp_path / "mine" / "card.json").read_text())
    assert card["training_images_unknown"] == ["flow"]
    assert cli.main(["info", str(tmp_path / "mine")]) == 0
    assert "it is not known which images flow were made from" in capsys.readouterr().out


def test_what_is_kept_of_a_run_that_this_one_has_no_part_in_stays(tmp_path, capsys):
    for name in ("flow", "encoder"):
        (tmp_path / "mine.run" / name).mkdir(parents=True)
        (tmp_path / "mine.run" / name / "hours").write_text("of training")
    write_images(tmp_path / "photos", small.images(50))
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *given_flow(tmp_path)) == 0
    kept = sorted(path.parent.name for path in (tmp_path / "mine.run").glob("*/hours"))
    assert kept == ["encoder", "flow"]


@pytest.mark.parametrize(("of", "shape"), [("grey", (8, 8, 1)), ("colour", (8, 8, 3))])
def test_images_are_brought_to_the_channels_of_a_given_flow(tmp_path, monkeypatch, of, shape):
    module = flows.Glow(shape, depth=1, levels=1, width=4)
    variables = module.init(jax.random.key(0), np.zeros((2, *shape), np.float32))
    flows.save(tmp_path / "flow.safetensors", flows.bind(module, variables))
    grey = small.images(50, shape=(8, 8, 1))
    write_images(tmp_path / "photos", grey.repeat(3, axis=-1) if of == "grey" else grey)
    words = ("--flow", tmp_path / "flow.safetensors", "--encoder", "pixels")
    words = (tmp_path / "photos", "--out", tmp_path / "mine", *words)
    if of == "colour":
        assert run(*words) == 2
        words += ("--resize", "8")
    *_, split = parts_of(monkeypatch, *words)
    assert split.train.shape[1:] == shape
    assert {image.tobytes() for image in split.train[..., :1]} < {each.tobytes() for each in grey}


@pytest.mark.skipif(sys.platform != "linux", reason="there are no such names")
def test_a_directory_whose_name_is_no_text_is_refused_before_anything_is_read(tmp_path, capsys):
    write_images(tmp_path / "photos", small.images(50))
    out = os.path.join(tmp_path, os.fsdecode(b"caf\xe9"))
    assert run(tmp_path / "photos", "--out", out, "--encoder", "pixels", "--steps", "25") == 2
    assert r"caf\udce9.run has a name that is no text in UTF-8" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    with contextlib.redirect_stdout(io.StringIO()):  # it tells the name
        assert run(tmp_path / "photos", "--out", out, *given_flow(tmp_path)) == 0


def test_whoever_mixes_grey_and_colour_is_told_to_read_them_so_again(tmp_path, capsys):
    write_images(tmp_path / "photos" / "grey", small.images(30, shape=(8, 8, 1)))
    write_images(tmp_path / "photos" / "colour", small.images(30, shape=(8, 8, 3)))
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *given_flow(tmp_path)) == 0
    assert capsys.readouterr().out.endswith(" --out report.html --resize\n")
    words = ("score", tmp_path / "photos", "--scorer", tmp_path / "mine", "--resize")
    assert cli.main([*map(str, words), "--out", str(tmp_path / "s.csv")]) == 0
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 61


def test_an_encoder_of_other_images_is_refused_before_anything_is_trained(tmp_path, capsys):
    module = encoders.Compact(channels=3, width=4, bottleneck=4, blocks=1, features=4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.uint8))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    encoders.save(tmp_path / "encoder.safetensors", encoders.encoder(module, variables))
    write_images(tmp_path / "photos", small.images(60, shape=(8, 8, 1)))
    words = ("--encoder", tmp_path / "encoder.safetensors", "--steps", "25")
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *words) == 2
    assert "the encoder Compact cannot be called" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.safetensors", "photos"]


@pytest.mark.slow
def test_a_compact_encoder_is_trained_on_the_training_images_alone(tmp_path, monkeypatch):
    smaller = functools.partial(encoders.Compact, width=8, bottleneck=4, blocks=1, features=6)
    monkeypatch.setattr(encoders, "Compact", smaller)
    monkeypatch.setattr(encoders, "efficientnet_lite0_installed", lambda: False)
    write_images(tmp_path / "photos", small.images(60))
    words = (tmp_path / "photos", "--out", tmp_path / "mine", *given_flow(tmp_path)[:2])
    _, encoder, split = parts_of(monkeypatch, *words, "--steps", "1")
    assert encoder.name == "compact"
    assert encoder.embed(split.held_out).shape == (3, 6)
    np.testing.assert_array_equal(encoder.trained_on, splits.remember(split.train))
    assert len(split.train) == 51


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "0"), "steps is 0; expected a whole number, 1 or more"),
        (("--minutes", "-1"), "minutes is -1.0; expected a finite number above 0"),
        (("--steps", "1000000000000"), "steps is 1000000000000; expected fewer than"),
        (("--seed", "-1"), "seed is -1; expected a whole number from 0 to"),
        (("--depth", "0"), "depth is 0; expected a whole number, 1 or more"),
        (("--width", "-4"), "width is -4; expected a whole number, 1 or more"),
        (("--out", "PHOTOS/0000.png/x"), "cannot write"),
        (("--resize", "big"), "--resize is 'big'"),
        (("--resize", "8x8x8"), "--resize is '8x8x8'"),
        (("--resize", "0"), "--resize is '0'"),
        (("--resize", "9"), "are 9 x 9 pixels; flows need even sides"),
        (("--resize", "6", "--encoder", "compact", "--steps", "1"), "needs multiples of 4"),
        (("--encoder", "nonesuch"), "--encoder is 'nonesuch'"),
        (("--flow", "nonesuch"), "there is no weights file nonesuch"),
        (("--key", "x"), "--key is x, and no .npz file is given; leave it out."),
        (("--flow", "PHOTOS/0000.png"), "is not a readable safetensors file"),
        (("--flow", "FLOW", "--depth", "2"), "for which --depth would do nothing; leave it out."),
        (("--flow", "FLOW", "--mirror"), "for which --mirror would do nothing; leave it out."),
        (("--out", "x" * 300), "(File name too long); give another name."),
        (("--out", "x" * 253), "(File name too long); give another name."),
        (("--flow", "FLOW", "--resize", "6"), "is a flow of images of shape [8, 8, 3], and these"),
        (("--flow", "FLOW"), "45 of them used in training, and one in 20 is set apart"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    tmp_path, tmp_path_factory, capsys, words, message
):
    write_images(tmp_path / "photos", small.images(45))
    elsewhere = tmp_path_factory.mktemp("given")
    given_flow(elsewhere, splits.remember(small.images(45)))
    names = {"PHOTOS": tmp_path / "photos", "FLOW": elsewhere / "flow.safetensors"}
    for name, path in names.items():
        words = [word.replace(name, str(path)) for word in words]
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    "words", [("--width", "0"), ("--depth", "0"), ("--resize", "33x20"), ("--resize", "7")]
)
def test_sizes_of_no_flow_are_refused_before_an_image_is_read(tmp_path, monkeypatch, words):
    write_images(tmp_path / "photos", small.images(45))
    monkeypatch.setattr(stream, "read", interrupt)
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *words) == 2


def test_one_image_of_three_equal_channels_makes_no_folder_of_grey_images_coloured(
    tmp_path, capsys
):
    grey = small.images(46, shape=(8, 8, 1))
    write_images(tmp_path / "photos" / "grey", grey[1:])
    write_images(tmp_path / "photos" / "rgb", grey[:1].repeat(3, axis=-1))
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *given_flow(tmp_path)) == 2
    told = capsys.readouterr().err
    assert "shape [8, 8, 3], and these have [8, 8, 1]" in told and "in colour" not in told


@pytest.mark.parametrize(
    ("given", "copies", "message"),
    [
        (44, 0, "44 images can be used; expected at least 45"),
        (
            *(30, 15),
            "15 of 45 images are copies of others and do not count, and 1 image can be held out; "
            "expected at least 2",
        ),
        (10, 40, "10 distinct images were given and one in 20 is set apart"),
    ],
)
def test_too_few_images_are_refused_before_anything_is_trained(
    tmp_path, capsys, given, copies, message
):
    images = photos(given)
    write_images(tmp_path / "photos", np.concatenate([images, images[np.arange(copies) % given]]))
    assert run(tmp_path / "photos", "--out", tmp_path / "mine") == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "mine.run").exists()
