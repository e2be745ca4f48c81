"""The training commands: what they write, what they refuse, and that the same command resumes."""

import json
import re
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest

from ecood import encoders, flows, models, splits, train
from ecood.baselines import background
from ecood.errors import InputError
from experiments import report, train_encoder, train_flow
from tests import small

SHAPE = (8, 8, 1)
IMAGES = small.images(200, shape=SHAPE)
TINY = ("--depth", "1", "--levels", "1", "--width", "4", "--batch-size", "16")
RUN = (*TINY, "--name", "noise", "--steps", "25", "--dtype", "bfloat16")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of images, without labels."""
    path = tmp_path_factory.mktemp("source") / "noise.npz"
    np.savez(path, noise_train=IMAGES, noise_test=small.images(40, 1, SHAPE))
    return path


def command(*words, program=train_flow):
    """As from the shell: the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, words)])
        try:
            report.main(program.run, program.build_parser())
        except SystemExit as stopped:
            return stopped.code
    return 0


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    assert command("--data", source, *RUN, "--out", folder) == 0
    return folder


def test_the_flow_and_its_card_are_written(finished):
    flow = flows.load(finished / "flow.safetensors")
    card = json.loads((finished / "card.json").read_text())
    assert card["data"] == {"name": "noise", "train": 190, "held_out": 10, "test": 40}
    assert card["steps"] == 25
    assert 0 < card["bits_per_dim"]["held_out"] < 9
    assert card["flow"] == json.loads(json.dumps(flow.architecture))
    split = splits.as_split(IMAGES)
    known = [splits.count_known(part, flow.trained_on) for part in split]
    assert known == [190, 0, 0]


def test_images_that_were_trained_on_are_no_test(tmp_path, capsys):
    np.save(tmp_path / "all.npy", IMAGES)
    words = ("--data", tmp_path / "all.npy", *TINY, "--name", "noise", "--steps", "1")
    assert command(*words, "--out", tmp_path / "out") == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["data"]["test"] == 0 and set(card["bits_per_dim"]) == {"train", "held_out"}
    assert "'test'" not in capsys.readouterr().out


def test_the_networks_compute_in_bfloat16_and_the_file_says_so(finished):
    flow = flows.load(finished / "flow.safetensors")
    assert flow.architecture["attributes"]["dtype"] == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(flow.variables)} == {"float32"}
    module = models.build(
        flow.architecture | {"attributes": flow.architecture["attributes"] | {"dtype": "float32"}},
        flows.MODULES.values(),
    )
    x, key = np.float32(IMAGES[:4]) / 256, jax.random.key(0)
    found, exact = (
        jax.jit(flows.Flow.log_prob)(f, key, x) for f in (flow, flows.bind(module, flow.variables))
    )
    assert found.dtype == np.float32
    assert 0 < np.max(np.abs(found - exact)) < 0.01 * np.max(np.abs(exact))


def contents(folder):
    """What is in all files of a folder."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_what_fails_at_the_end_costs_no_training(finished, source, tmp_path, monkeypatch):
    def full(*_):
        raise InputError("the disk is full.")

    words = ("--data", source, *RUN, "--out", tmp_path / "out")
    monkeypatch.setattr(flows, "save", full)
    assert command(*words) == 2
    monkeypatch.undo()
    assert not (tmp_path / "out" / "flow.safetensors").exists()
    log = (tmp_path / "out" / "run" / "log.jsonl").read_bytes()
    assert command(*words) == 0
    assert (tmp_path / "out" / "run" / "log.jsonl").read_bytes() == log
    trees = [flows.load(f / "flow.safetensors") for f in (finished, tmp_path / "out")]
    jax.tree.map(np.testing.assert_array_equal, *trees)


REFUSALS = {
    "a wrong name": (["--data", "embedded", "--name", "cats"], r"no cats among"),
    "no such directory": (["--data", "NEW/none"], r"none is not there"),
    "another architecture": (
        ["--width", "8", "--out", "OUT"],
        r"holds a run with .*width = 4.*8.*repeat that run's own command to resume it",
    ),
    "another precision": (
        ["--dtype", "float32", "--out", "OUT"],
        r"holds a run with dtype = bfloat16.*float32",
    ),
    "another length": (["--steps", "50", "--out", "OUT"], r"holds a run with steps = 25.*50"),
    "another split": (
        ["--split-seed", "1", "--out", "OUT"],
        r"holds a run with other training images",
    ),
    "no steps": (["--steps", "0"], r"steps is 0; expected a whole number, 1 or more"),
    "too large a batch": (
        ["--batch-size", "512"],
        r"190 training examples are given and",
    ),
    "no levels": (["--levels", "0"], r"levels is 0; expected a whole number, 1 or more"),
    "too many levels": (["--levels", "4"], r"4 levels need sides divisible by 16"),
    "no learning rate": (["--learning-rate", "nan"], r"learning_rate is nan; expected a finite"),
    "no seed": (["--seed", "-1"], r"seed is -1; expected a whole"),
    "no shares": (["--calibration", "1.5"], r"calibration is 1.5; expected a share"),
    "decay without mutation": (["--weight-decay", "1e-5"], r"--weight-decay is for background"),
    "a precision that is not known": (
        ["--flow", "ResidualFlow"],
        r"ResidualFlow has no attribute dtype; leave dtype bfloat16 out or choose another",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_command_is_refused_in_one_sentence_and_changes_nothing(
    name, source, finished, tmp_path, capsys
):
    words, sentence = REFUSALS[name]
    paths = {"OUT": str(finished), "NEW": str(tmp_path)}
    for path in paths:
        words = [word.replace(path, paths[path]) for word in words]
    before = contents(finished)
    assert command("--data", source, "--out", tmp_path / "new", *RUN, *words) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"python -m experiments.train_flow: .*{sentence}", told)
    assert contents(finished) == before and not list(tmp_path.iterdir())


def test_a_background_flow_is_trained_with_the_rate_and_decay_asked_for(
    monkeypatch, source, tmp_path
):
    """On the split that the main flow has, its calibration images left out."""
    seen = []

    def train_background(module, split, rate, config, directory, **options):
        seen.append((split, rate, options["weight_decay"], options["flip"]))
        variables = small.blank_flow().variables
        return flows.bind(module, variables), train.Fit(variables, 1.0, 25, [])

    monkeypatch.setattr(background, "train_background", train_background)
    monkeypatch.setattr(flows, "save", lambda *_: None)
    monkeypatch.setattr(train_flow, "map_images", lambda *_, images: np.ones(len(images)))
    words = ("--mutate", "0.25", "--weight-decay", "1e-5")
    words += ("--calibration", "0.1", "--split-seed", "2")
    assert command("--data", source, *RUN, *words, "--out", tmp_path / "out") == 0
    ((split, *rest),) = seen
    assert rest == [0.25, 1e-5, False]
    expected = splits.draw(IMAGES, seed=2, calibration=0.1)
    for part, other in zip(split, expected, strict=True):
        np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("labelled", [False, True])
def test_an_encoder_and_its_card_are_written(monkeypatch, tmp_path, labelled):
    """Labels follow the images into the split: one class is bright above, the other below."""
    labels = np.arange(200) % 2
    images = IMAGES // 4
    images[labels == 0, :4] += 128
    images[labels == 1, 4:] += 128
    arrays = {"train": images, "test": images[:30]}
    if labelled:
        arrays |= {"train_labels": labels, "test_labels": labels[:30]}
    np.savez(tmp_path / "noise.npz", **arrays)

    def fit_encoder(split, config, *rest, **options):
        assert config.steps == 25 and config.batch_size == 190
        encoder = encoders.pixels().replace(trained_on=splits.remember(split.train))
        return encoder, train.Fit({}, 1.0, 25, [])

    monkeypatch.setattr(train, "fit_encoder", fit_encoder)
    words = ("--data", tmp_path / "noise.npz", "--name", "noise", "--steps", "25")
    assert command(*words, "--out", tmp_path / "out", program=train_encoder) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["knn_accuracy"] == (1.0 if labelled else None)
    assert card["data"] == {"name": "noise", "train": 190} and card["steps"] == 25
    encoder = encoders.load(tmp_path / "out" / "encoder.safetensors")
    assert len(encoder.trained_on) == 190


def test_a_flow_beside_another_holds_out_the_same_images(finished, source, tmp_path):
    """Whatever the seed of its split: a member of an ensemble is no use without that."""
    words = ("--beside", finished / "flow.safetensors", "--split-seed", "3", "--out", tmp_path)
    assert command("--data", source, *RUN, "--steps", "1", "--seed", "1", *words) == 0
    ours, beside = (flows.load(d / "flow.safetensors") for d in (tmp_path, finished))
    np.testing.assert_array_equal(ours.trained_on, beside.trained_on)
