import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ecood.errors import InputError
from ecood.images import check_images, content_keys, dequantise
from tests import small
from tests.drawn import quickly


class Unreadable:
    def __array__(self, *_, **__):
        raise RuntimeError("not dense\nsecond line")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((4, 8, 8, 1), np.uint8), "[4, 8, 8, 1]; this model expects uint8 [N, 8, 8, 3]"),
        (np.zeros((4, 9, 8, 3), np.uint8), "[4, 9, 8, 3]; this model expects"),
        (np.zeros((8, 8, 3), np.uint8), "add the batch axis with images[None]"),
        (np.zeros((8, 8), np.uint8), "stack NHWC images"),
        (np.zeros((0, 8, 8, 3), np.uint8), "images is empty"),
        (np.zeros((4, 8, 8, 3), np.int64), "images is int64"),
        (np.zeros((4, 8, 8, 3), bool), "images is bool"),
        (np.full((4, 8, 8, 3), np.nan, np.float32), "768 values that are NaN or infinite"),
        (np.full((4, 8, 8, 3), 1.5, np.float32), "values in [1.5, 1.5]; expected uint8"),
        (np.full((4, 8, 8, 3), 1e5), "undo what normalised them"),
        (np.zeros((4, 8, 8, 3), np.complex64), "images is complex64"),
        (Unreadable(), "images is a Unreadable that numpy cannot read (not dense)"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], "images is a ragged sequence"),
        (None, "images is object"),
        ("photos", "ecood.data.load_images reads files"),
        (np.full((4, 8, 8, 3), 1.00001, np.float32), "if 1 is white"),
        (np.ma.masked_array(np.zeros((4, 8, 8, 3), np.uint8), True), "images has masked pixels"),
    ],
)
def test_wrong_images_are_refused_in_one_sentence(images, words):
    with pytest.raises(InputError) as caught:
        check_images(images, small.SHAPE)
    message = str(caught.value)
    assert words in message
    assert message.endswith(".") and "\n" not in message


@pytest.mark.parametrize(
    ("dtype", "made", "advice"),
    [
        ("bool", lambda x: x > 127, 0),
        ("float32", lambda x: x / 255, 0),
        ("bfloat16", lambda x: x / 255, 0),
        ("float8_e4m3fn", lambda x: x / 255, 0),
        ("float16", lambda x: x / 127.5 - 1, 0),
        ("float64", lambda x: 1.0 * x, 0),
        ("int64", lambda x: x, 0),
        ("uint16", lambda x: x * 16, 0),
        ("uint16", lambda x: x * 16, 1),
        ("uint16", lambda x: x * 257, 0),
        ("int8", lambda x: x - 128, 0),
        ("int4", lambda x: x // 16 - 8, 0),
        ("uint4", lambda x: x // 16, 0),
    ],
)
def test_the_advice_is_right_for_the_type(dtype, made, advice):
    """Whoever does what the sentence says has the pixels, as well as the type holds them."""
    pixels = np.arange(256, dtype=np.int64).reshape(4, 8, 8, 1)
    given = np.asarray(made(pixels), jnp.dtype(dtype))
    with pytest.raises(InputError) as caught:
        check_images(given)
    expression = str(caught.value).split("pass ")[1].split(", and if")[0].rstrip(".")
    if advice:  # the second one, for another number of bits
        expression = str(caught.value).split("if 16, ")[1].rstrip(".")
        given = given * 16
    found = eval(expression, {"np": np, "images": given})
    assert found.dtype == np.uint8
    precision = {"bool": 127, "bfloat16": 1, "float8_e4m3fn": 8, "int4": 15, "uint4": 15}.get(
        dtype, 0
    )
    assert np.abs(np.int64(found) - pixels).max() <= precision


def test_grey_images_without_an_axis_are_told_which():
    with pytest.raises(InputError, match=r"images\[\.\.\., None\]"):
        check_images(np.zeros((64, 8, 8), np.uint8), (8, 8, 1))
    with pytest.raises(InputError, match="images is empty"):
        check_images([])


def test_right_images_pass_unchanged():
    images = small.images(3)
    assert check_images(images, small.SHAPE) is images
    assert check_images(jnp.asarray(images)).dtype == np.uint8


def test_dequantised_pixels_stay_in_their_bin():
    image = jnp.arange(256, dtype=jnp.uint8).reshape(16, 16, 1).repeat(64, axis=2)
    x = dequantise(jax.random.key(0), image)
    assert x.dtype == jnp.float32
    assert float(x.max()) < 1
    np.testing.assert_array_equal(jnp.floor(x * 256).astype(jnp.uint8), image)
    noise = np.asarray(x * 256 - image)
    assert abs(noise.mean() - 0.5) < 4 * np.sqrt(1 / 12 / noise.size)
    assert abs(noise.var() - 1 / 12) < 0.01


def test_dequantisation_is_what_the_key_draws_for_the_images_shape():
    key, image = jax.random.key(2), jnp.zeros((4, 5, 3), jnp.uint8)
    drawn = jax.random.bits(key, image.shape, jnp.uint16).astype(jnp.float32)
    np.testing.assert_array_equal(dequantise(key, image), drawn / 2**24)


def test_an_images_key_depends_on_its_pixels_and_the_run_key_only():
    images = small.images(50)
    keys = jax.random.key_data(content_keys(jax.random.key(1), images))
    shuffled = jax.random.key_data(content_keys(jax.random.key(1), images[::-1]))
    alone = jax.random.key_data(content_keys(jax.random.key(1), images[7:8]))
    np.testing.assert_array_equal(keys, shuffled[::-1])
    np.testing.assert_array_equal(keys[7:8], alone)
    assert len(np.unique(keys, axis=0)) == 50
    other = jax.random.key_data(content_keys(jax.random.key(2), images))
    assert not np.any(np.all(keys == other, axis=1))


def test_single_pixel_changes_and_swaps_change_the_key():
    image = np.zeros((1, 8, 8, 3), np.uint8)
    variants = [image.copy()]
    for position in range(image.size):
        for value in (1, 128, 255):
            changed = image.copy()
            changed.flat[position] = value
            variants.append(changed)
    keys = jax.random.key_data(content_keys(jax.random.key(0), np.concatenate(variants)))
    assert len(np.unique(keys, axis=0)) == len(variants)


@pytest.mark.parametrize("key", [0, jax.random.PRNGKey(0), jax.random.split(jax.random.key(0))])
def test_what_is_no_single_key_is_refused(key):
    with pytest.raises(InputError, match=r"expected one key, made by jax.random.key\(seed\)"):
        content_keys(key, small.images(2))


INTEGERS = ["bool", "int8", "uint8", "uint16", "int64"]
DTYPES = st.sampled_from([*INTEGERS, "float16", "float32", "float64", "complex64"])


@quickly(max_examples=150)
@given(arrays(DTYPES, array_shapes(min_dims=0, max_dims=5, max_side=4)), st.booleans())
def test_any_array_is_taken_as_it_is_or_refused_in_one_sentence(array, as_list):
    images = array.tolist() if as_list else array
    fine = array.dtype == np.uint8 and array.ndim == 4 and not as_list
    own = array.shape[1:] if array.ndim == 4 else (4, 4, 3)
    for shape in (None, own, (9, 9, 3)):
        if fine and shape in (None, own):
            assert check_images(images, shape) is images
            continue
        with pytest.raises(InputError) as caught:
            check_images(images, shape)
        message = str(caught.value)
        assert message.startswith("images ") and message.endswith(".")
        assert "\n" not in message and "expected" in message or "expects" in message
