import json

import pytest

import ecood.score
from ecood import cli, encoders, flows, train
from tests import small
from tests.data.image_files import write_images


def run(*words):
    return cli.main(["fit", *map(str, words)])


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder of images, one damaged, fitted the whole way: interrupted once, then resumed."""
    root = tmp_path_factory.mktemp("fit")
    write_images(root / "photos", small.images(220))[7].write_bytes(b"damaged")
    words = (root / "photos", "--out", root / "mine", "--encoder", "pixels")
    settings = ("--steps", "25", "--depth", "1", "--width", "4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ecood.score, "fit", interrupt)
        assert run(*words, *settings) == 130
    assert sorted(path.name for path in root.iterdir()) == ["mine.run", "photos"]
    assert len((root / "mine.run" / "flow" / "log.jsonl").read_text().splitlines()) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_make_segment", lambda *_: interrupt)  # no step is left to do
        assert run(*words, *settings) == 1
    return root


def test_one_directory_is_left_with_a_calibrated_scorer(fitted):
    assert sorted(path.name for path in fitted.iterdir()) == ["mine", "photos"]
    scorer = ecood.score.load(fitted / "mine")
    assert scorer.image_shape == small.SHAPE
    assert len(scorer.calibration) == 21
    card = json.loads((fitted / "mine" / "card.json").read_text())
    assert card["images"] == {"given": 219, "bank, training": 198, "calibration": 21}
    assert 0 < card["bits_per_dim_held_out"] < 9


def test_no_image_is_both_in_the_bank_and_in_the_calibration(fitted):
    scorer = ecood.score.load(fitted / "mine")
    assert len(scorer.state.bank) == 198 - 198 // 20
    with pytest.raises(ecood.errors.InputError, match="calibration images are in the memory bank"):
        scorer.calibrate(small.images(220))


def test_what_is_there_is_not_overwritten(fitted, capsys):
    assert run(fitted / "photos", "--out", fitted / "mine") == 2
    assert "mine is there already" in capsys.readouterr().err


def test_info_tells_all_parts(fitted, capsys):
    assert cli.main(["info", str(fitted / "mine")]) == 0
    out = capsys.readouterr().out
    for words in (
        "Glow",
        "depth 1",
        "pixels",
        "float32 [189, 192]",
        "21 images",
        "fpr   1%:     too few",
        "fpr   5%:     score >",
        "bits_per_dim_held_out",
    ):
        assert words in out
    assert cli.main(["info"]) == 0
    assert "fashion_mnist" in capsys.readouterr().out.splitlines()


def test_a_flow_and_an_encoder_can_be_given(tmp_path, capsys):
    flows.save(tmp_path / "flow.safetensors", small.blank_flow())
    encoders.save(tmp_path / "encoder.safetensors", encoders.pixels())
    grey, colour = small.images(30, shape=(12, 12, 1)), small.images(30, shape=(16, 8, 3))
    write_images(tmp_path / "photos" / "grey", grey)
    write_images(tmp_path / "photos" / "colour", colour)
    given = ("--flow", tmp_path / "flow.safetensors", "--encoder", tmp_path / "encoder.safetensors")
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *given) == 2
    assert "expected images of one size: add --resize SIDE" in capsys.readouterr().err
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *given, "--resize", "8x8") == 0
    assert ecood.score.load(tmp_path / "mine").image_shape == (8, 8, 3)
    assert not (tmp_path / "mine.run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "0"), "training for 0 is no training"),
        (("--minutes", "-1"), "training for -1.0 is no training"),
        (("--steps", "1000000000000"), "steps is 1000000000000; expected fewer than"),
        (("--seed", "-1"), "seed is -1; expected 0 to"),
        (("--depth", "0"), "depth is 0; expected 1 or more"),
        (("--width", "-4"), "width is -4; expected 1 or more"),
        (("--out", "PHOTOS/0000.png/x"), "cannot write"),
        (("--resize", "big"), "--resize is 'big'"),
        (("--resize", "8x8x8"), "--resize is '8x8x8'"),
        (("--resize", "0"), "--resize is '0'"),
        (("--resize", "9"), "are 9 x 9 pixels; flows need even sides"),
        (("--resize", "6", "--encoder", "compact", "--steps", "1"), "needs multiples of 4"),
        (("--encoder", "nonesuch"), "--encoder is 'nonesuch'"),
        (("--flow", "nonesuch"), "there is no weights file nonesuch"),
        (("--key", "x", "--flow", "PHOTOS/0000.png"), "is not a readable safetensors file"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(tmp_path, capsys, words, message):
    write_images(tmp_path / "photos", small.images(45))
    words = [word.replace("PHOTOS", str(tmp_path / "photos")) for word in words]
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_too_few_images_are_refused(tmp_path, capsys):
    write_images(tmp_path / "photos", small.images(44))
    assert run(tmp_path / "photos", "--out", tmp_path / "mine") == 2
    assert "44 images can be used; expected at least 45" in capsys.readouterr().err


def test_a_few_images_vouch_for_no_threshold_of_5_percent(tmp_path, capsys):
    write_images(tmp_path / "photos", small.images(45))
    flows.save(tmp_path / "flow.safetensors", small.blank_flow())
    words = ("--flow", tmp_path / "flow.safetensors", "--encoder", "pixels")
    assert run(tmp_path / "photos", "--out", tmp_path / "mine", *words) == 0
    assert "rate of 5%: too few images to vouch for" in capsys.readouterr().out
