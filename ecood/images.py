"""What an image is: the check at the door, dequantisation, the noise key.

Images are uint8 [N, H, W, C], or [B, H, W, C] for the batches of a compiled program.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ecood import keys
from ecood.errors import InputError
from ecood.words import number_of

__all__ = ["as_array", "check_batch", "check_images", "content_hash", "content_keys", "dequantise"]


def check_images(images: Any, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """`images`, whatever numpy can make an array of, as uint8 [N, H, W, C], N >= 1.

    Raises `InputError` for a wrong rank, dtype or value range, or another shape (H, W,
    C).
    """
    array = as_array(images)
    expected = "uint8 [N, {}, {}, {}]".format(*(shape or "HWC"))
    given = f"images has shape {list(array.shape)}"
    if array.size == 0:
        raise InputError(
            f"images is empty, with shape {list(array.shape)}; expected at least one image, "
            f"{expected}."
        )
    if array.dtype != np.uint8:
        raise InputError(_wrong_dtype(array, expected))
    if array.ndim != 4:
        hint = "stack NHWC images"
        if array.ndim == 3:
            hint = "add the batch axis with images[None]"
            if shape is not None and (*array.shape[1:], 1) == tuple(shape):
                hint = "add the channel axis with images[..., None]"
        raise InputError(f"{given}; expected {expected}: {hint}.")
    if shape is not None and array.shape[1:] != tuple(shape):
        raise InputError(
            f"{given}; this model expects {expected}: resize or convert the images, or use a "
            "model built for them."
        )
    return array


def as_array(images: Any) -> np.ndarray:
    """What numpy can make an array of; else, and for masked pixels, an `InputError`."""
    try:
        array = np.asarray(images)
    except Exception as error:  # other libraries' arrays raise many types
        if isinstance(error, ValueError) and isinstance(images, list | tuple):
            raise InputError(
                "images is a ragged sequence; expected one uint8 array [N, H, W, C]: "
                "resize the images to one size and stack them."
            ) from None
        reason = str(error).split("\n")[0]
        raise InputError(
            f"images is a {type(images).__name__} that numpy cannot read ({reason}); expected a "
            "uint8 array [N, H, W, C]."
        ) from error
    if np.ma.is_masked(images):
        raise InputError(
            "images has masked pixels; expected a value for each: pass images.filled(value)."
        )
    return array


def check_batch(images: jax.Array) -> None:
    """Refuses a batch to compute on, traced or not, that is not uint8 [B, H, W, C], B at least 1.

    Raises:
      InputError: for another one.
    """
    kind, shape = getattr(images, "dtype", type(images).__name__), np.shape(images)
    if kind != np.uint8 or len(shape) != 4 or 0 in shape:
        raise InputError(
            f"images is {kind} {list(shape)}; expected uint8 [B, H, W, C] with at least one image "
            "(ecood.images.check_images tells how to convert others)."
        )


# How numbers in each range, ends included, become uint8 pixels.
ADVICE = {
    (0, 1): "if 1 is white, pass np.round(255 * np.float32(images)).astype(np.uint8)",
    (0, 255): "if 255 is white, pass np.round(np.float32(images)).astype(np.uint8)",
    (-1, 1): "if -1 is black and 1 white, pass np.round(127.5 * (np.float32(images) + 1)).astype("
    "np.uint8)",
    (0, 4095): "if they have 12 bits, pass np.uint8(images // 16), and if 16, np.uint8(images "
    "// 256)",
    (0, 65535): "if they have 16 bits, pass np.uint8(images // 256)",
}

# And numbers of a type that has another range.
ADVICE_OF_TYPE = {
    "int8": "if -128 is black and 127 white, pass np.uint8(np.int16(images) + 128)",
    "int4": "if -8 is black and 7 white, pass np.uint8(17 * (np.int16(images) + 8))",
    "uint4": "if 15 is white, pass np.uint8(17 * np.int16(images))",
}


def _wrong_dtype(array: np.ndarray, expected: str) -> str:
    number = jnp.issubdtype(array.dtype, jnp.number) and not np.iscomplexobj(array)
    if array.dtype != bool and not number:
        hint = ": ecood.data.load_images reads files" if array.dtype.kind in "OSU" else ""
        return f"images is {array.dtype}; expected {expected} with pixel values 0 to 255{hint}."
    values = array.astype(np.float64)
    low, high = values.min(), values.max()
    if odd := array.size - np.isfinite(values).sum():
        what = f"{number_of(odd, 'value that is', 'values that are')} NaN or infinite"
        advice = "find out where they come from"
    else:
        what, advice = f"values in [{low:.4g}, {high:.4g}]", "undo what normalised them"
        # Where pixels are rounded, rounding noise at the ends does not matter.
        noise = {b: 1e-3 * (b - a) if b < 256 else 0 for a, b in ADVICE}
        fits = (a - noise[b] <= low and high <= b + noise[b] for a, b in ADVICE)
        advice = next(itertools.compress(ADVICE.values(), fits), advice)
        if array.dtype.itemsize == 1 and not (array.dtype == np.int8 and low >= 0):
            advice = ADVICE_OF_TYPE.get(array.dtype.name, advice)
    return f"images is {array.dtype} with {what}; expected {expected}: {advice}."


def dequantise(key: jax.Array, image: jax.Array) -> jax.Array:
    """Uniform dequantisation, (u + v) / 256 with v ~ U[0, 1), exact in float32.

    uint8 -> float32 in [0, 1): v has 16 bits, so u + v fits into float32's 24.

    Source: Theis et al. 2016, "A note on the evaluation of generative models", sect.
    3.1.
    """
    with keys.same_bits():  # flat: the same bits, in a third of the time where channels are 3
        noise = jax.random.bits(key, (image.size,), jnp.uint16).reshape(image.shape)
    return (image.astype(jnp.float32) + noise.astype(jnp.float32) / 2**16) / 256


def content_keys(key: jax.Array, images: jax.Array, *words: ArrayLike) -> jax.Array:
    """One key an image, [B]: `key` folded with a 64-bit hash of the image's own pixels.

    So the noise of images, uint8 [B, H, W, C], depends on the key and the image alone:
    not on its batch, its position, padding, or device. Then it is folded with each of the
    words, whole numbers of any shape that goes with [B], which the keys then have.

    Raises `InputError` if `key` is not one key: a number, a key of the older kind, or an
    array of keys.
    """
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape:
        what = "an array of keys" if typed else getattr(key, "dtype", None)
        what = repr(key) if what is None else f"{what} {list(key.shape)}"
        raise InputError(f"key is {what}; expected one key, made by jax.random.key(seed).")

    found = content_hash(images)
    words = jnp.stack(jnp.broadcast_arrays(found[:, 0], found[:, 1], *map(jnp.uint32, words)))
    start = jnp.broadcast_to(keys.threefry(key), words.shape[1:])
    fold = jax.random.fold_in
    for _ in start.shape:  # one at a time: devices cannot share what [B] is merged into
        fold = jax.vmap(fold)
    # In a loop, as each call of the generator takes a CPU's compiler longer than a whole network.
    return jax.lax.scan(lambda keys, word: (fold(keys, word), None), start, words)[0]


def content_hash(images: jax.Array) -> jax.Array:
    """A 64-bit hash of pixels and places: uint8 [B, H, W, C] -> uint32 [B, 2]."""
    pixels = images.reshape(images.shape[0], -1).astype(jnp.uint32)
    position = jnp.arange(pixels.shape[1], dtype=jnp.uint32)
    symbols = pixels + 256 * position[None, :]  # (position, value) as one number
    salts = (0x9E3779B9, 0x7F4A7C15)
    words = [jnp.sum(_mix(symbols + jnp.uint32(salt)), 1, jnp.uint32) for salt in salts]
    return jnp.stack(words, axis=1)


def _mix(word: jax.Array) -> jax.Array:
    """A bijective 32-bit mixer: multiply and xor-shift rounds, each invertible mod 2^32."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
