"""Whatever comes in, scores or one sentence come out: arrays at the public door, folders at the
command line. docs/robustness.md lists the kinds."""

import csv
import functools
import io
import os
import pathlib
import random
import tempfile

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ecood.score
from ecood import cli, encoders, interop
from ecood.errors import InputError
from tests import small
from tests.drawn import quickly

DTYPES = (
    *("uint8", "int8", "uint16", "int16", "int32", "uint64", "int64", "bool", "float16", "float32"),
    *("float64", "bfloat16", "float8_e4m3fn", "int4", "complex64", "object", "U3", "M8[s]", ">u2"),
    *("S2", "longdouble"),
)
SHAPES = ((8, 8, 3), (8, 8, 1), (8, 8), (3, 8, 8), (0, 8, 3), (), (192,), (12, 8, 3), (1, 8, 8, 3))
RANGES = ((0, 0), (0, 1), (0, 255), (-1, 1), (0, 4095), (0, 65535), (-1e30, 1e30))


@functools.cache
def scorer():
    images = small.images(60)
    return ecood.score.fit(small.blank_flow(), encoders.pixels(), images, noise_strength=0.1)


@functools.cache
def place():
    folder = tempfile.TemporaryDirectory()
    scorer().save(pathlib.Path(folder.name, "mine"))
    return folder


@st.composite
def anything(draw):
    """An array of any dtype, layout, shape and range, or what holds one."""
    count, shape = draw(st.integers(0, 3)), draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.uniform(*draw(st.sampled_from(RANGES)), (count, *shape))
    name = draw(st.sampled_from(DTYPES))
    dtype = jnp.dtype(name) if name in ("bfloat16", "float8_e4m3fn", "int4") else np.dtype(name)
    with np.errstate(all="ignore"):
        array = values.astype(np.int64).astype(dtype) if dtype.kind == "M" else values.astype(dtype)
    if array.dtype.kind == "f" and array.size and draw(st.booleans()):
        array.flat[0] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    layout = draw(st.sampled_from(["C", "F", "reversed", "strided", "read-only", "list", "matrix"]))
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1]
    if layout == "strided":
        return np.repeat(array, 2, axis=0)[::2]
    if layout == "list":
        return list(array) if draw(st.booleans()) else [*array, None]
    if layout == "matrix":
        return array.view(np.recarray) if array.dtype.kind not in "OMUS" else array
    array.flags.writeable = layout != "read-only"
    return array


def scores_or_sentence(function, given):
    try:
        found = function(given)
    except InputError as error:
        assert "\n" not in str(error) and str(error).endswith(".")
    else:
        assert found.shape == (len(given),) and np.isfinite(found).all()


@quickly(max_examples=300)
@given(anything())
def test_any_array_is_scored_or_refused_in_one_sentence(images):
    scores_or_sentence(scorer(), images)


@quickly(max_examples=100)
@given(anything())
def test_any_tensor_is_scored_or_refused_in_one_sentence(images):
    scores_or_sentence(interop.PyTorchOOD(scorer()).predict, images)


SUFFIXES = ("png", "PNG", "jpg", "webp", "bmp", "gif", "tif", "ppm", "npy", "npz", "txt", "")
NAMES = st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=6)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "I;16", "F", "CMYK")


@st.composite
def content(draw):
    """The bytes of a file: an image of some mode and format, maybe harmed, or anything."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=40))
    size = draw(st.sampled_from([(8, 8), (1, 1), (9, 5)]))
    rng = random.Random(draw(st.integers(0, 999)))
    image = Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
    buffer = io.BytesIO()
    try:
        image.convert(draw(st.sampled_from(MODES))).save(buffer, draw(st.sampled_from(FORMATS)))
    except (OSError, ValueError, KeyError):  # a format that has no such mode
        image.save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    harm = draw(st.sampled_from(["none", "none", "cut", "flip", "swap"]))
    at = draw(st.integers(0, len(data) - 1))
    if harm == "cut":
        del data[at:]
    elif harm == "flip":
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif harm == "swap":
        data = data[at:] + data[:at]
    return bytes(data)


@quickly(max_examples=60)
@given(
    st.lists(st.tuples(NAMES, st.sampled_from(SUFFIXES), content()), max_size=5),
    st.sampled_from([(), ("--resize",), ("--format", "jsonl"), ("--fpr", "0.5")]),
)
def test_any_folder_is_scored_or_refused_in_one_sentence(files, words):
    with tempfile.TemporaryDirectory(dir=place().name) as root:
        folder = os.path.join(root, "photos")
        os.mkdir(folder)
        for name, suffix, data in files:
            path = os.path.join(folder, f"{name}.{suffix}" if suffix else name)
            try:
                with open(path, "xb") as file:
                    file.write(data)
            except (OSError, ValueError):  # no name of a file, or one that is there
                continue
        out = os.path.join(root, "out")
        mine = os.path.join(place().name, "mine")
        code = cli.main(["score", folder, "--scorer", mine, "--out", out, *words])
        assert code in (0, 1, 2)
        assert os.path.exists(out) == (code != 2)
        assert sorted(os.listdir(root)) == (["photos"] if code == 2 else ["out", "photos"])
        if code != 2 and "jsonl" not in words:
            with open(out, encoding="utf-8", errors="surrogateescape", newline="") as file:
                assert all(np.isfinite(float(row["score"])) for row in csv.DictReader(file))
