"""Every wrong input ends in one sentence that says what was given, and leaves nothing behind.

A case is a name, what to do in an empty folder, and what the sentence must say. Files that a case
needs are made in `given/`; whatever else is in the folder afterwards was left behind.
"""

import dataclasses
import functools
import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import conformal, data, encoders, flows, interop, memory, metrics, splits, weights
from ecood.data import stream
from ecood.errors import InputError
from ecood.flows import published
from ecood.images import check_images, content_keys
from ecood.splits import Split
from ecood.statistics import Reference
from ecood.train import TrainConfig, flow_task
from ecood.train import fit as train
from ecood.train.checkpoints import Checkpoints
from tests import small
from tests.bad_files import archive, edit, given, left_behind, pickled_array, poison, weights_file
from tests.data.image_files import encode, write_images

IMAGES = small.images(40)
EMBEDDED = ("--data", "embedded", "--name", "fashion_mnist")


@functools.cache
def scorer():
    """Fitted without compiling a flow: its gain and noise strength are given."""
    bank = memory.unit_norm(jnp.asarray(np.random.default_rng(0).normal(size=(9, 192))))
    flow, encoder = small.blank_flow(), encoders.pixels()
    reference = Reference(jnp.zeros(4), jnp.ones(4))
    state = ecood.score.SPEMState(
        flow, encoder, bank.astype(jnp.float32), jnp.float32(0.1), reference
    )
    return ecood.score.Scorer(state, small.SHAPE)


def saved(folder, change=None):
    """The folder of a scorer, in which one thing is wrong."""
    path = folder / "given" / "scorer"
    scorer().save(path)
    if change is not None:
        change(path)
    return path


def pipe(folder, name):
    path = given(folder, name, "")
    path.unlink()
    os.mkfifo(path)
    return path


def checkpoints_of_another_run(folder):
    given(folder, "run.json", json.dumps({"task": "another"}))
    task = flow_task(flows.Glow(small.SHAPE))
    return train(task, IMAGES[2:], IMAGES[:2], CONFIG, folder / "given")


def a_flow_of(folder, **changes):
    architecture = small.blank_flow().architecture
    architecture = {"kind": architecture["kind"], **architecture["attributes"]} | changes
    path = weights_file(
        folder, small.blank_flow().variables, {"architecture": json.dumps(architecture)}
    )
    return flows.load(path)


def an_encoder_of(folder, **architecture):
    return encoders.load(weights_file(folder, {}, {"architecture": json.dumps(architecture)}))


CONFIG = TrainConfig(steps=25, batch_size=32)
FLOAT = np.zeros((2, 8, 8, 3), np.float32)
UINT8 = np.zeros((2, 8, 8, 3), np.uint8)
KEY = jax.random.key(0)
SHAPE = small.SHAPE

LIBRARY = {
    # images
    "floats": (lambda d: check_images(FLOAT + 0.5, SHAPE), r"images is float32 with values in"),
    "NaN": (lambda d: check_images(FLOAT * np.nan), r"384 values that are NaN or infinite"),
    "signed": (lambda d: check_images(UINT8.astype(np.int64)), r"images is int64 with values in"),
    "one image": (lambda d: check_images(UINT8[0]), r"add the batch axis with images\[None\]"),
    "flat images": (lambda d: check_images(UINT8.reshape(2, -1)), r"\[2, 192\].*stack NHWC images"),
    "no images": (lambda d: check_images(UINT8[:0]), r"images is empty, with shape"),
    "another size": (
        lambda d: scorer()(small.images(2, shape=(12, 8, 3))),
        r"has shape \[2, 12, 8, 3\]",
    ),
    "grey for colour": (lambda d: scorer()(UINT8[..., :1]), r"has shape \[2, 8, 8, 1\]"),
    "channels first": (
        lambda d: scorer()(UINT8.transpose(0, 3, 1, 2)),
        r"has shape \[2, 3, 8, 8\]",
    ),
    "ragged": (lambda d: check_images([UINT8[0], UINT8[0, :4]]), r"images is a ragged sequence"),
    "words": (lambda d: check_images("cat.png"), r"images is <U7; expected uint8"),
    "nothing": (lambda d: check_images(None), r"images is object; expected uint8"),
    "too few to hold out": (lambda d: splits.draw(IMAGES[:19]), r"19 distinct images were given"),
    "no parts": (lambda d: fit_spem(IMAGES), r"a ndarray was given where a Split is expected"),
    "parts that share images": (
        lambda d: fit_spem(Split(IMAGES, IMAGES[:2], IMAGES[:0])),
        r"shares 2 images",
    ),
    "a calibration on what was trained on": (lambda d: trained().calibrate(IMAGES), r"9 of 40"),
    "normalised tensors": (lambda d: interop.from_tensor(-np.ones((1, 3, 8, 8))), r"Normalize"),
    # keys
    "a number as key": (lambda d: content_keys(0, UINT8), r"key is 0; expected one key"),
    "an old key": (lambda d: content_keys(jax.random.PRNGKey(0), UINT8), r"key is uint32 \[2\]"),
    "many keys": (lambda d: content_keys(jax.random.split(KEY), UINT8), r"array of keys \[2\]"),
    # settings, scores, calibration
    "negative noise": (lambda d: scorer().with_noise_strength(-1), r"noise_strength is -1"),
    "noise of two": (
        lambda d: scorer().with_noise_strength(np.array([1.0, 2.0])),
        r"noise_strength is array",
    ),
    "noise of two, to fit": (
        lambda d: ecood.score.fit(*PARTS, IMAGES, noise_strength=np.array([1.0, 2.0])),
        r"noise_strength is array",
    ),
    "noise in words": (lambda d: ecood.score.spem(*PARTS, noise_strength="big"), r"is 'big'"),
    "no draws": (lambda d: ecood.score.spem(*PARTS, draws=0), r"draws is 0"),
    "odd pairs": (lambda d: ecood.score.spem(*PARTS, draws=3, antithetic=True), r"draws is 3"),
    "not calibrated": (lambda d: scorer().is_ood(UINT8), r"not calibrated.*scorer\.calibrate"),
    "impossible rate": (lambda d: calibrated().is_ood(UINT8, 1.5), r"fpr is 1\.5; expected a rate"),
    "scores in words": (lambda d: metrics.auroc(["high"], [1.0]), r"id_scores cannot be read"),
    "scores with NaN": (lambda d: metrics.auroc([1.0], [np.nan, 1.0]), r"1 score that is NaN"),
    "no scores": (lambda d: metrics.fpr_at_tpr([], [1.0]), r"id_scores has shape \[0\]"),
    "no calibration": (lambda d: conformal.threshold([], 0.1), r"calibration has shape \[0\]"),
    "export to .bin": (lambda d: scorer().export(d / "s.bin"), r"a file name ending in \.npz"),
    "export to the moon": (
        lambda d: scorer().export(d / "s.npz", "moon"),
        r"platforms is \['moon'\]",
    ),
    "labels that do not fit": (
        lambda d: interop.split_by_label([1.0], [1, 2]),
        r"one label a score",
    ),
    # banks
    "an empty bank": (lambda d: memory.build(encoders.pixels(), UINT8[:0]), r"bank is empty"),
    "an encoder of NaN": (lambda d: memory.build(NAN, UINT8), r"broken gave embeddings"),
    "the bank of another": (lambda d: other_bank(d), r"built by the encoder another"),
    "no bank": (lambda d: memory.load(d / "none", encoders.pixels()), r"there is no weights file"),
    "a bank of rank 1": (lambda d: flat_bank(d), r"is not a memory bank; expected one array"),
    # weights
    "missing weights": (lambda d: weights.load(d / "w"), r"there is no weights file"),
    "damaged weights": (lambda d: weights.load(given(d, "w", b"\x08")), r"readable safetensors"),
    "a header too long": (lambda d: weights.load(given(d, "w", b"\xff" * 64)), r"safetensors"),
    "pickled weights": (lambda d: weights.load(given(d, "w", poison(d))), r"readable safetensors"),
    "a torch file that runs": (lambda d: encoders.resnet(given(d, "w.pth", poison(d))), r"names"),
    "a flow without its name": (
        lambda d: flows.load(weights_file(d, {"a": UINT8})),
        r"say which model",
    ),
    "an unknown flow": (lambda d: a_flow_of(d, kind="Magic"), r"of kind 'Magic'; this version"),
    "a flow of bad settings": (lambda d: a_flow_of(d, colour="red"), r"does not describe a Glow"),
    "a wider flow": (lambda d: a_flow_of(d, width=8), r"do not match the model: .* shape"),
    "an odd encoder": (lambda d: encoders.load(weights_file(d, {"a": UINT8})), r"say which model"),
    "an unknown encoder": (
        lambda d: an_encoder_of(d, kind="CLIP"),
        r"of kind 'CLIP'; this version",
    ),
    "another checksum": (lambda d: encoders.resnet(given(d, "w", b""), sha256="0"), r"SHA-256"),
    "a folder in the way": (lambda d: weights.save(given(d, "f", "") / "w", {}), r"cannot write"),
    # scorers
    "an unknown scorer": (lambda d: ecood.score.load("imagenet"), r"no scorer 'imagenet'"),
    "no path": (lambda d: ecood.score.load(None), r"None is of the type NoneType; expected a sco"),
    "a number for a path": (lambda d: ecood.score.load(3), r"3 is of the type int; expected a sco"),
    "no exported file": (lambda d: ecood.score.load_export(3), r"3 is of the type int; expected"),
    "no flow's path": (lambda d: flows.load(None), r"None is of the type NoneType; expected"),
    "nowhere to save": (lambda d: scorer().save(None), r"None is of the type NoneType; expected"),
    "nowhere to export": (lambda d: scorer().export(3), r"3 is of the type int; expected a path"),
    "no source": (lambda d: data.load_images(None, "x", "test"), r"expected auto, embedded, tfds"),
    "many sources": (lambda d: data.load_images(["x"], "x", "test"), r"the type list; expected au"),
    "no images to resize": (lambda d: data.resize(None, (8, 8, 3)), r"images is None; expected"),
    "an empty folder": (lambda d: ecood.score.load(d), r"holds no scorer\.json"),
    "a damaged scorer": (
        lambda d: load(d, lambda p: (p / "scorer.json").write_text("[1")),
        r"scorer\.json is damaged",
    ),
    "a scorer of tomorrow": (lambda d: load(d, lambda p: edit(p, format=9)), r"has format 9"),
    "a scorer of no shape": (
        lambda d: load(d, lambda p: edit(p, image_shape=3)),
        r"lacks or misstates",
    ),
    "a scorer without bank": (
        lambda d: load(d, lambda p: (p / "bank.safetensors").unlink()),
        r"there is no weights file",
    ),
    "a calibration of another": (lambda d: foreign_calibration(d), r"made for a scorer with other"),
    "saving over a thesis": (
        lambda d: scorer().save(given(d, "thesis.tex", "").parent),
        r"is not empty",
    ),
    "saving into a file": (lambda d: scorer().save(given(d, "file", "")), r"is a file; expected"),
    # training and checkpoints
    "no length": (lambda d: TrainConfig(), r"either steps or minutes"),
    "no steps": (lambda d: TrainConfig(steps=0), r"steps is 0; expected a whole number, 1 or more"),
    "endless": (
        lambda d: TrainConfig(minutes=float("inf")),
        r"minutes is inf; expected a finite number above 0",
    ),
    "too few to train": (lambda d: train(TASK, IMAGES[:19], IMAGES[19:], CONFIG), r"19 training"),
    "another run": (lambda d: checkpoints_of_another_run(d), r"holds a run with task = 'another'"),
    "a damaged run": (
        lambda d: Checkpoints(given(d, "run.json", "{").parent, {}),
        r"run\.json is damaged",
    ),
    "a run in a full folder": (
        lambda d: Checkpoints(given(d, "thesis.tex", "").parent, {}),
        r"is not empty and holds no run",
    ),
    # data
    "no such source": (lambda d: images_from(d / "none"), r"none is not there; expected auto"),
    "a text file": (lambda d: images_from(given(d, "x.txt", "")), r"x\.txt is a file; expected"),
    "an empty source": (lambda d: images_from(d), r"holds no images of cats, split train"),
    "a limit of none": (lambda d: data.load_images("embedded", "mnist", "test", limit=0), r"limit"),
    "an unknown set": (lambda d: data.load_images("embedded", "cats", "test"), r"no cats among"),
    "an unknown split": (
        lambda d: data.load_images("embedded", "mnist", "dev"),
        r"no mnist, split dev",
    ),
    "an array of objects": (
        lambda d: images_from(given(d, "x.npy", pickled_array(d))),
        r"x\.npy cannot be read",
    ),
    "objects in an archive": (
        lambda d: images_from(archive(d, "train.npy", pickled_array(d))),
        r"evil\.npz cannot be read",
    ),
    "a path out of an archive": (
        lambda d: images_from(archive(d, "../../train.npy")),
        r"named '../../train.npy', which points outside of the archive",
    ),
    "a streamed path out": (
        lambda d: stream.check([str(archive(d, "/etc/train.npy"))]),
        r"named '/etc/train.npy', which points outside",
    ),
    "an archive without images": (
        lambda d: images_from(given(d, "x.npz", {"y": UINT8})),
        r"holds the keys y; expected cats_train or train",
    ),
    "an archive that is none": (lambda d: images_from(given(d, "x.npz", b"PK")), r"cannot be read"),
    "an array of floats": (
        lambda d: images_from(given(d, "x.npy", FLOAT)),
        r"x\.npy: images is float32",
    ),
    "a damaged photo": (
        lambda d: images_from(given(d, "x.png", encode(IMAGES[0])[:50]).parent),
        r"x\.png cannot be decoded",
    ),
    "photos of two sizes": (lambda d: two_sizes(d), r"images of one size"),
    # what has no end
    "an array in a pipe": (lambda d: images_from(pipe(d, "x.npy")), r"no regular file"),
    "a checkpoint in a pipe": (lambda d: published.normflows(pipe(d, "x.pt")), r"no regular file"),
    "settings in a pipe": (
        lambda d: published.glow_pytorch(d / "x.pt", pipe(d, "x.json")),
        r"x\.json is no regular file; copy",
    ),
}

PARTS = (small.blank_flow(), encoders.pixels())
NAN = encoders.encoder(lambda x: jnp.full((x.shape[0], 2), jnp.nan), name="broken")
TASK = flow_task(flows.Glow(SHAPE))


def calibrated():
    return dataclasses.replace(scorer(), calibration=np.arange(9, dtype=np.float32))


def trained():
    """A scorer whose flow remembers nine images."""
    flow = scorer().flow.replace(trained_on=splits.remember(IMAGES[:9]))
    return dataclasses.replace(scorer(), state=scorer().state.replace(flow=flow))


def fit_spem(split):
    return ecood.score.spem(*PARTS).fit(KEY, split)


def load(folder, change):
    return ecood.score.load(saved(folder, change))


def foreign_calibration(folder):
    calibrated().save(folder / "given" / "other")
    path = saved(folder, lambda p: edit(p, seed=3))
    (folder / "given" / "other" / "calibration.safetensors").rename(
        path / "calibration.safetensors"
    )
    return ecood.score.load(path)


def other_bank(folder):
    path = folder / "given" / "bank"
    memory.save(path, scorer().state.bank, encoders.encoder(len, name="another"))
    return memory.load(path, encoders.pixels())


def flat_bank(folder):
    metadata = {"encoder_identity": encoders.identity(encoders.pixels())}
    path = weights_file(folder, {"embeddings": np.zeros(9, np.float32)}, metadata)
    return memory.load(path, encoders.pixels())


def images_from(source):
    return data.load_images(source, "cats", "train")


def two_sizes(folder):
    write_images(folder / "given" / "a", IMAGES[:1])
    write_images(folder / "given" / "b", small.images(1, shape=(12, 8, 3)))
    (folder / "given" / "b" / "0000.png").rename(folder / "given" / "a" / "0001.png")
    return images_from(folder / "given" / "a")


def test_there_are_many():
    assert len(LIBRARY) >= 60


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_refuses_in_one_sentence(name, tmp_path):
    call, words = LIBRARY[name]
    with pytest.raises(InputError) as caught:
        call(tmp_path)
    assert re.search(words, str(caught.value))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "'", "]"))
    assert left_behind(tmp_path) == []
