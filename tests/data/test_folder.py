import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ecood.data import folder
from ecood.errors import InputError
from tests.data.image_files import random_images, write_images


def as_set(images):
    return sorted(image.tobytes() for image in images)


@pytest.mark.parametrize("place", ["cats/test", "test", "cats", ""])
def test_layouts(tmp_path, place):
    images = random_images(0, 6)
    path = tmp_path / "images"
    write_images(path / place, images)
    (path / place / "notes.txt").write_text("no image")
    (path / place / "._0000.png").write_bytes(b"no image")
    found = folder.load_images(path, "cats", "test")
    assert found.shape == images.shape and found.dtype == np.uint8
    assert as_set(found) == as_set(images)


def test_names_and_splits_are_told_apart(tmp_path):
    expected = {}
    for i, (name, split) in enumerate([("a", "train"), ("a", "test"), ("b", "test")]):
        expected[name, split] = random_images(i, 3)
        write_images(tmp_path / name / split, expected[name, split])
    write_images(tmp_path / "test", random_images(9, 3))
    for (name, split), images in expected.items():
        assert as_set(folder.load_images(tmp_path, name, split)) == as_set(images)
    with pytest.raises(InputError, match="holds b/test/, and neither b/train/ nor train/;"):
        folder.load_images(tmp_path, "b", "train")


def test_folders_by_class_are_mixed_in_an_order_that_holds(tmp_path):
    dark, light = np.zeros((40, 4, 4, 1), np.uint8), np.full((40, 4, 4, 1), 255, np.uint8)
    dark[:, 0, 0, 0] = light[:, 0, 0, 0] = np.arange(40)
    write_images(tmp_path / "test" / "dark", dark)
    write_images(tmp_path / "test" / "light", light)
    found = folder.load_images(tmp_path, "any", "test")
    for part in (found[:20], found[-20:]):  # binomial: 10 +- 2.2
        assert 3 <= np.sum(part[:, 1, 1, 0] == 255) <= 17
    np.testing.assert_array_equal(folder.load_images(tmp_path, "any", "test", 9), found[:9])
    (tmp_path / "test").rename(tmp_path / "train")  # the order is that of the paths below it
    np.testing.assert_array_equal(folder.load_images(tmp_path, "any", "train"), found)


def test_grey_and_palette_files(tmp_path):
    grey = random_images(0, 1, (6, 5))[0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(folder.load_images(tmp_path, "x", "test")[0, ..., 0], grey)
    (tmp_path / "grey.png").unlink()
    palette = Image.fromarray(random_images(1, 1, (6, 5, 3))[0]).quantize(8)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        folder.load_images(tmp_path, "x", "test")[0], np.asarray(palette.convert("RGB"))
    )


def test_the_first_odd_image_is_named(tmp_path):
    paths = write_images(tmp_path / "test", random_images(0, 30))
    Image.fromarray(random_images(1, 1, (5, 6, 3))[0]).save(paths[17])
    with pytest.raises(InputError, match=r"0017\.png has shape \[5, 6, 3\] but .* has \[5, 4, 3\]"):
        folder.load_images(tmp_path, "any", "test")


def test_an_odd_channel_count_is_named(tmp_path):
    paths = write_images(tmp_path / "test", random_images(0, 30))
    Image.fromarray(random_images(1, 1, (5, 4))[0]).save(paths[17])
    with pytest.raises(InputError, match=r"0017\.png has shape \[5, 4, 1\] but .* has \[5, 4, 3\]"):
        folder.load_images(tmp_path, "any", "test")


def deep_png():
    """One pixel, RGB of 16 bits: Pillow writes no such file."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 26161, 16862, 57584)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def deep_tiff(planes):
    """4 x 2 pixels, RGB of 16 bits, uncompressed, the channels in turn or in separate planes."""
    pixels, size = (1000 * np.arange(24)).astype("<u2").tobytes(), 48
    after = 8 + size  # first the pixels, then what does not fit into a tag: 3 numbers, 3 places
    more = struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", 8, 24, 40)
    more += struct.pack("<3I", 16, 16, 16)
    several = (3, after + 6, after + 18) if planes else (1, 8, size)
    tags = [(256, 4, 1, 4), (257, 4, 1, 2), (258, 3, 3, after), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, several[0], several[1]), (277, 3, 1, 3), (278, 4, 1, 2)]
    tags += [(279, 4, several[0], several[2]), (284, 3, 1, 2 if planes else 1)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = b"II*\0" + struct.pack("<I", after + len(more))
    return header + pixels + more + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tif", deep_tiff(planes=True)),
        ("x.tif", deep_tiff(planes=False)),
        ("x.png", deep_png()),
        ("x.ppm", b"P6 1 1 65535\n" + struct.pack(">HHH", 26161, 16862, 57584)),
        ("x.ppm", b"P3 1 1 1000\n26 168 575\n"),
    ],
)
def test_colours_of_16_bits_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="is an image of mode RGB of 16 bits; expected 8-bit"):
        folder.load_images(tmp_path, "any", "test")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_are_turned_upright(tmp_path, kind):
    image = Image.fromarray(np.uint8([[[255, 0, 0]] * 16, [[0, 0, 255]] * 16]).repeat(8, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    image.save(tmp_path / f"x.{kind.lower()}", kind, exif=exif)
    found = folder.load_images(tmp_path, "any", "test")[0]
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    assert np.mean(np.abs(np.int32(found) - upright)) < 9


def test_other_formats_under_an_image_s_name_are_refused(tmp_path):
    content = io.BytesIO()
    Image.fromarray(random_images(0, 1)[0]).save(content, "TGA")
    (tmp_path / "x.png").write_bytes(content.getvalue())
    with pytest.raises(InputError, match=r"x\.png cannot be decoded \(it is none of PNG, JPEG"):
        folder.load_images(tmp_path, "any", "test")


def test_hidden_folders_are_not_seen_and_any_name_will_do(tmp_path):
    images = random_images(0, 2)
    write_images(tmp_path / "test" / ".thumbnails", random_images(1, 2))
    paths = write_images(tmp_path / "test", images)
    try:
        os.rename(paths[0], os.fsencode(tmp_path / "test") + b"/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes text alone")
    assert as_set(folder.load_images(tmp_path, "any", "test")) == as_set(images)


def test_files_that_cannot_be_opened_are_named(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "x.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"x\.png cannot be opened \(No such file"):
        folder.load_images(tmp_path, "any", "test")


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("RGBA", "RGBA with transparent pixels"),
        ("LA", "LA with transparent pixels"),
        ("I;16", "I;16"),
    ],
)
def test_what_8_bit_rgb_cannot_hold_is_refused(tmp_path, mode, told):
    Image.new(mode, (4, 4)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match=f"image.png is an image of mode {told}; expected 8-bit"):
        folder.load_images(tmp_path, "any", "test")


def test_transparent_palettes_are_refused(tmp_path):
    Image.new("P", (4, 4)).save(tmp_path / "image.png", transparency=0)
    with pytest.raises(InputError, match="mode P with transparent pixels; expected 8-bit"):
        folder.load_images(tmp_path, "any", "test")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_alpha_channel_that_says_nothing_is_dropped(tmp_path, mode):
    """As screenshots have; one pixel that is not opaque is refused."""
    shape = (4, 5, len(mode))
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(pixels.squeeze())
    image.putalpha(255)
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(folder.load_images(tmp_path, "any", "test"), pixels[None])
    image.putpixel((2, 1), (*image.getpixel((2, 1))[:-1], 254))
    image.save(tmp_path / "image.png")
    with pytest.raises(InputError, match="with transparent pixels"):
        folder.load_images(tmp_path, "any", "test")


def test_damaged_images_are_named(tmp_path):
    path = write_images(tmp_path / "test", random_images(0, 1, (40, 40, 3)))[0]
    whole = path.read_bytes()
    for content in (b"", b"no image", whole[:30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"0000\.png cannot be decoded \("):
            folder.load_images(tmp_path, "any", "test")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images of cats, split test; expected image"):
        folder.load_images(tmp_path, "cats", "test")


def tagged(image, kind, *tags):
    """An image file whose EXIF block has these (tag, type, value) entries, 4 bytes a value."""
    entries = b"".join(struct.pack("<HHI", tag, form, 1) + value for tag, form, value in tags)
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, exif=block, lossless=True)
    return buffer.getvalue()


SIX = (0x112, 3, struct.pack("<HH", 6, 0))  # turn by a quarter


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize(
    ("tags", "turned"),
    [
        ([(0x100, 2, b"abc\0"), SIX], True),
        ([(0x112, 2, b"6\0\0\0")], True),
        ([(0x112, 11, struct.pack("<f", np.nan))], False),
        ([(0x112, 11, struct.pack("<f", np.inf))], False),
        ([(0x112, 9, struct.pack("<i", -6))], False),
        ([(0x112, 5, struct.pack("<I", 99999))], False),
    ],
)
def test_odd_metadata_turn_an_image_or_are_passed_over(tmp_path, kind, tags, turned):
    image = random_images(0, 1)[0]
    (tmp_path / f"x.{kind.lower()}").write_bytes(tagged(image, kind, *tags))
    found = folder.load_images(tmp_path, "any", "test")[0]
    np.testing.assert_array_equal(found, np.rot90(image, -1) if turned else image)


def test_a_damaged_profile_costs_no_pixel_and_a_damaged_chunk_is_named(tmp_path):
    image, profile = random_images(0, 1)[0], PngImagePlugin.PngInfo()
    profile.add_text("Raw profile type exif", "\nexif\n   10\nno numbers")
    path = tmp_path / "x.png"
    Image.fromarray(image).save(path, pnginfo=profile)
    np.testing.assert_array_equal(folder.load_images(tmp_path, "any", "test")[0], image)
    path.write_bytes(path.read_bytes().replace(b"no numbers", b"no letters"))
    with pytest.raises(InputError, match=r"x\.png cannot be decoded \(.*checksum in b'tEXt'\)"):
        folder.load_images(tmp_path, "any", "test")


def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch):
    write_images(tmp_path, random_images(0, 1))
    damaged = r"0000\.png cannot be decoded \(a part of it"
    for error, words in (
        (AttributeError("x"), damaged),
        (struct.error("y"), damaged),
        (RecursionError("z"), damaged),
        (MemoryError(), r"0000\.png does not fit into memory"),
    ):

        def fail(_, error=error):
            raise error

        monkeypatch.setattr(Image.Image, "load", fail)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(InputError, match=words):
            folder.load_images(tmp_path, "any", "test")


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "dib", "gif", "tif", "tiff", "pnm"])
def test_other_suffixes_of_what_is_read(tmp_path, suffix):
    image = np.full((8, 8, 3), 120, np.uint8)
    kind = Image.registered_extensions().get(f".{suffix}", "JPEG")
    Image.fromarray(image).save(tmp_path / f"x.{suffix}", kind)
    np.testing.assert_array_equal(folder.load_images(tmp_path, "any", "test"), image[None])


def test_colours_of_5_6_and_5_bits_are_read(tmp_path):
    pixels = struct.pack("<HHHH", 0x1F, 0xFFFF, 0xF800, 0x7E0)  # two rows, from the lower one
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    body = header + masks + pixels
    (tmp_path / "x.bmp").write_bytes(struct.pack("<2sIHHI", b"BM", 74, 0, 0, 66) + body)
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]
    (tmp_path / "y.dib").write_bytes(body)  # the same without its file header
    for found in folder.load_images(tmp_path, "any", "test"):
        np.testing.assert_array_equal(found, expected)


def test_what_would_fill_the_memory_is_refused(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 20000 20000 255\n")
    with pytest.raises(InputError, match="20000 x 20000 pixels; expected at most 178,956,970"):
        folder.load_images(tmp_path, "any", "test")


def test_nested_photos_are_one_set_and_another_split_is_not_taken_for_it(tmp_path):
    images = random_images(0, 4)
    write_images(tmp_path / "nested" / "a" / "b", images[:2])
    write_images(tmp_path / "nested", images[2:])
    assert len(folder.load_images(tmp_path / "nested", "any", "test")) == 4
    write_images(tmp_path / "data" / "cats" / "train", images)
    for path in (tmp_path / "data", tmp_path / "data" / "cats"):
        for name in ("cats", "dogs"):
            with pytest.raises(InputError, match=r"train/, and neither .* nor test/; expected"):
                folder.load_images(path, name, "test")
