"""Every wrong command line ends in one sentence that says what was given, and leaves nothing.

A case is a name, the command line, and what the sentence must say; `OUT` is the folder, `PHOTOS` a
folder of images in it.
"""

import functools
import re

import pytest

from ecood import cli
from ecood.errors import InputError
from experiments import train_encoder, train_flow
from tests import small
from tests.bad_files import given, left_behind
from tests.data.image_files import write_images

EMBEDDED = ("--data", "embedded", "--name", "fashion_mnist")

COMMAND_LINES = {
    "no command": ([], r"the following arguments are required: COMMAND"),
    "an unknown command": (["paint"], r"invalid choice: 'paint'"),
    "score nothing": (["score"], r"the following arguments are required: PATH"),
    "score nowhere": (["score", "OUT/none"], r"none is not there"),
    "score a text": (["score", "OUT/given/x.txt"], r"x\.txt is no file of images"),
    "score by nobody": (["score", "PHOTOS", "--scorer", "nobody"], r"no scorer 'nobody'"),
    "score to a picture": (["score", "PHOTOS", "--format", "png"], r"invalid choice: 'png'"),
    "flag by a word": (["score", "PHOTOS", "--fpr", "few"], r"invalid float value: 'few'"),
    "another key": (["score", "OUT/given/x.npz", "--key", "z"], r"holds the keys x; expected z"),
    "fit to nowhere": (["fit", "PHOTOS"], r"the following arguments are required: --out"),
    "fit onto something": (["fit", "PHOTOS", "--out", "PHOTOS"], r"photos is there already"),
    "fit to too few": (
        ["fit", "PHOTOS", "--out", "OUT/mine"],
        r"9 images can be used",
    ),
    "fit for no time": (
        ["fit", "PHOTOS", "--out", "OUT/m", "--minutes", "0"],
        r"minutes is 0\.0; expected a finite",
    ),
    "info of nothing": (["info", "OUT/none"], r"there is no scorer '.*none'"),
    "info of photos": (["info", "PHOTOS"], r"holds no scorer\.json"),
}

EXPERIMENTS = {
    "a flow on nothing": (train_flow, ["--data", "OUT/none"], r"none is not there"),
    "a flow for no time": (
        train_flow,
        [*EMBEDDED, "--minutes", "-1"],
        r"minutes is -1\.0; expected a finite",
    ),
    "a flow on a few": (
        train_flow,
        [*EMBEDDED, "--train-limit", "30", "--batch-size", "64"],
        r"29 training",
    ),
    "a flow on noise": (train_flow, [*EMBEDDED, "--mutate", "2"], r"mutation rate is 2"),
    "an encoder on nothing": (train_encoder, ["--data", "OUT/none"], r"none is not there"),
    "an encoder on none": (train_encoder, [*EMBEDDED, "--train-limit", "0"], r"limit is 0"),
}


def photos(folder):
    """The folder of nine images."""
    write_images(folder / "given" / "photos", small.images(9))
    return folder / "given" / "photos"


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_the_command_line_refuses_in_one_sentence(name, tmp_path, capsys):
    words, sentence = COMMAND_LINES[name]
    given(tmp_path, "x.txt", "")
    given(tmp_path, "x.npz", {"x": small.images(2)[..., :1]})
    names = {"OUT": str(tmp_path), "PHOTOS": str(photos(tmp_path))}
    words = [functools.reduce(lambda w, n: w.replace(n, names[n]), names, word) for word in words]
    try:
        code = cli.main(words)
    except SystemExit as stopped:  # by argparse
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert re.search(sentence, captured.err.splitlines()[-1])
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_refuse_in_one_sentence(name, tmp_path):
    program, words, sentence = EXPERIMENTS[name]
    words = [word.replace("OUT", str(tmp_path)) for word in words]
    with pytest.raises(InputError, match=sentence):
        program.run(program.build_parser().parse_args([*words, "--out", str(tmp_path / "run")]))
    assert left_behind(tmp_path) == []
