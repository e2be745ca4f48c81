"""A directory that is damaged, or made of parts of several scorers, is refused in one sentence."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

import ecood.score
from ecood import encoders, weights
from ecood.errors import InputError
from ecood.splits import remember
from tests import small


def edit(directory, **changes):
    path = directory / "scorer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def copy(directory, source, target):
    shutil.copy(directory / source, directory / target)


def swap_encoder(directory):
    encoders.save(directory / "encoder.safetensors", small.encoder(seed=9))


def another_width(directory):
    tree, metadata = weights.load(directory / "flow.safetensors")
    architecture = json.loads(metadata["architecture"])
    architecture["attributes"]["width"] = 16
    metadata = {"architecture": json.dumps(architecture)}
    weights.save(directory / "flow.safetensors", tree, metadata)


def parts(**changes):
    whole = {"centre": [0, 0, 0], "spread": [1, 1, 1]} | changes
    return {name: part for name, part in whole.items() if part is not None}


NAN = float("nan")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda d: (d / "scorer.json").unlink(), "holds no scorer.json"),
        (lambda d: (d / "scorer.json").write_text("{"), "scorer.json is damaged"),
        (lambda d: (d / "scorer.json").write_text("[]"), "scorer.json is damaged"),
        (lambda d: (d / "scorer.json").write_text("[" * 100_000), "scorer.json is damaged"),
        (lambda d: edit(d, format=99), "has format 99, and this ecood .* up to 2; install"),
        (lambda d: edit(d, format="2"), "has format '2'"),
        (lambda d: edit(d, draws=None), "lacks or misstates"),
        (lambda d: edit(d, form=["paper"]), "of the form .'paper'., and this"),
        (lambda d: edit(d, noise_strength="much"), "lacks or misstates"),
        (lambda d: edit(d, noise_strength=-1.0), "lacks or misstates"),
        (lambda d: edit(d, draws=0), "lacks or misstates draws is 0"),
        (lambda d: edit(d, draws=3, antithetic=True), "lacks or misstates draws is 3"),
        (lambda d: edit(d, antithetic="false"), "lacks or misstates 'false'"),
        (lambda d: edit(d, image_shape=[8, 8]), "lacks or misstates"),
        (lambda d: edit(d, image_shape=[8.7, 8, 1]), "lacks or misstates 8.7, which is no whole"),
        (lambda d: edit(d, seed=float("inf")), "lacks or misstates inf, which is no whole"),
        (lambda d: edit(d, seed=2**70), "lacks or misstates seed is 1180591620717411303424"),
        (lambda d: edit(d, draws=1.9), "lacks or misstates 1.9, which is no whole"),
        (lambda d: edit(d, noise_strength="0.5"), "lacks or misstates '0.5', which is no"),
        (lambda d: edit(d, reference=parts(spread=[-1, -1, -1])), "misstates the reference"),
        (
            lambda d: edit(d, made_by={"path": "os:getcwd"}),
            "misstates made_by, which names no part",
        ),
        (
            lambda d: edit(d, form="best"),
            "of the form 'best', and this ecood .* install the version",
        ),
        (lambda d: edit(d, reference=parts(spread=[1, NAN, 1])), "misstates the reference"),
        (lambda d: edit(d, reference=parts(spread=[1, 1])), "misstates the reference"),
        (lambda d: edit(d, reference=parts(centre=None)), "lacks or misstates 'centre'"),
        (lambda d: edit(d, reference=None), "lacks or misstates"),
        (lambda d: edit(d, reference=[[0, 0, 0], [1, 1, 1]]), "lacks or misstates"),
        (lambda d: edit(d, seed=1), "calibration.safetensors was made for a scorer with other"),
        (lambda d: (d / "flow.safetensors").unlink(), "there is no weights file"),
        (lambda d: truncate(d / "flow.safetensors"), "is not a readable safetensors file"),
        (lambda d: truncate(d / "encoder.safetensors"), "is not a readable safetensors file"),
        (lambda d: truncate(d / "bank.safetensors"), "is not a readable safetensors file"),
        (lambda d: truncate(d / "images.safetensors"), "is not a readable safetensors file"),
        (
            lambda d: weights.save(d / "images.safetensors", {"fitted_on": np.ones(3)}),
            "images.safetensors holds no fingerprints; it is damaged",
        ),
        (lambda d: copy(d, "bank.safetensors", "images.safetensors"), "holds no fingerprints"),
        (swap_encoder, "was built by the encoder"),
        (another_width, r"do not match the model: params/.* has shape"),
        (
            lambda d: copy(d, "bank.safetensors", "encoder.safetensors"),
            "does not say which model it holds; .* Compact, DINOv2",
        ),
        (
            lambda d: copy(d, "bank.safetensors", "flow.safetensors"),
            "does not say which model it holds; .* Glow, ClassGlow, ResidualFlow",
        ),
        (
            lambda d: copy(d, "encoder.safetensors", "flow.safetensors"),
            "is of kind 'RandomFeatures'; this version of ecood knows Glow, ClassGlow, Res",
        ),
    ],
)
def test_a_damaged_directory_is_refused_in_one_sentence(saved, harm, words):
    harm(saved)
    with pytest.raises(InputError, match=words) as caught:
        ecood.score.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "scores", [np.ones((2, 2)), np.ones(0), np.array([1.0, np.nan]), None], ids=str
)
def test_a_calibration_that_is_none_is_refused(saved, scores):
    path = saved / "calibration.safetensors"
    metadata = weights.load(path)[1]
    weights.save(path, {} if scores is None else {"scores": np.float32(scores)}, metadata)
    with pytest.raises(InputError, match="holds no calibration; expected finite scores"):
        ecood.score.load(saved)


PARTS = ("flow", "encoder", "bank", "images", "calibration")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Scorers that differ from `scorer` in their images, or in one part."""
    grey = (8, 8, 1)
    made = {
        "of grey images": (small.flow(shape=grey), small.encoder(channels=1), grey),
        "of larger images": (small.flow(shape=(12, 8, 3)), small.encoder(), (12, 8, 3)),
        "of another flow": (small.flow(), small.encoder(), small.SHAPE),
        "of another encoder": (small.blank_flow(), encoders.pixels(), small.SHAPE),
        "of another bank": (small.blank_flow(), small.encoder(), small.SHAPE),
    }
    root = tmp_path_factory.mktemp("others")
    for name, (flow, encoder, shape) in made.items():
        known = remember(small.images(40, seed=5, shape=shape))
        calibration = np.arange(9, dtype=np.float32)
        other = small.scorer(flow, encoder, shape, fitted_on=known, calibration=calibration)
        other.save(root / name)
    return root


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("part", PARTS)
def test_parts_that_do_not_belong_together_are_refused(saved, others, part, listed):
    """Also where scorer.json lists no files, as ecood 0.1 wrote it."""
    whole = {path.name: path.read_bytes() for path in saved.iterdir()}
    for other in others.iterdir():
        for path, content in ((saved / name, content) for name, content in whole.items()):
            path.write_bytes(content)
        if not listed:
            description = json.loads((saved / "scorer.json").read_text())
            del description["files"]
            (saved / "scorer.json").write_text(json.dumps(description))
        copy(other, f"{part}.safetensors", saved / f"{part}.safetensors")
        same = (other / f"{part}.safetensors").read_bytes() == whole[f"{part}.safetensors"]
        if same or (part == "images" and not listed):  # of which nothing else knows
            continue
        with pytest.raises(InputError) as caught:
            ecood.score.load(saved)
        assert "\n" not in str(caught.value)


def test_an_uncalibrated_one_of_ecood_0_1_with_parts_of_other_images(scorer, others, tmp_path):
    dataclasses.replace(scorer, calibration=None).save(tmp_path / "s")
    description = json.loads((tmp_path / "s" / "scorer.json").read_text())
    del description["files"]
    for part in ("flow", "encoder"):
        for name in ("of grey images", "of larger images"):
            scorer.save(tmp_path / "s")
            (tmp_path / "s" / "scorer.json").write_text(json.dumps(description))
            (tmp_path / "s" / "calibration.safetensors").unlink()
            copy(others / name, f"{part}.safetensors", tmp_path / "s" / f"{part}.safetensors")
            if (part, name) == ("encoder", "of larger images"):
                continue  # the same file
            with pytest.raises(InputError, match="not of images|built by the encoder"):
                ecood.score.load(tmp_path / "s")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_vanished_is_missed(saved, part):
    (saved / f"{part}.safetensors").unlink()
    with pytest.raises(InputError, match=rf"{part}\.safetensors( is missing|$)|no weights file"):
        ecood.score.load(saved)


def test_what_cannot_be_read_is_named(saved, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(saved / "scorer.json"))

    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    with pytest.raises(InputError, match=r"scorer\.json cannot be read \(Permission denied\)"):
        ecood.score.load(saved)
