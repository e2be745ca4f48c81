import numpy as np
import pytest
from image_files import random_images, write_images
from PIL import Image

from ecood.data import folder
from ecood.errors import InputError


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
    with pytest.raises(InputError, match="holds no images of b, split train; expected image files"):
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


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_what_8_bit_rgb_cannot_hold_is_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match=f"image.png is an image of mode {mode}; expected 8-bit"):
        folder.load_images(tmp_path, "any", "test")


def test_transparent_palettes_are_refused(tmp_path):
    Image.new("P", (4, 4)).save(tmp_path / "image.png", transparency=0)
    with pytest.raises(InputError, match="mode P with transparency; expected 8-bit"):
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
