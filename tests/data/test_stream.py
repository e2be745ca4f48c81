import io
import os
import resource
import sys

import numpy as np
import pytest
from PIL import PngImagePlugin

from ecood.data import stream
from ecood.data.unused import Unused
from ecood.errors import InputError
from tests.data.image_files import random_images, write_images


def images_of(items):
    return np.stack([item.image for item in items])


def test_folders_are_read_in_the_order_of_names(tmp_path):
    images = random_images(0, 4)
    write_images(tmp_path / "set" / "b", images[:2])
    write_images(tmp_path / "set" / "a" / "deep", images[2:])
    (tmp_path / "set" / ".hidden.png").write_bytes(b"")
    items = list(stream.read([str(tmp_path / "set")]))
    np.testing.assert_array_equal(images_of(items), images[[2, 3, 0, 1]])
    assert [os.path.relpath(i.path, tmp_path) for i in items][0] == "set/a/deep/0000.png"
    assert stream.count([str(tmp_path / "set")]) == 4


def test_what_is_known_is_left_out_and_not_decoded(tmp_path, monkeypatch):
    images, decode, decoded = random_images(0, 4), stream.decode_file, []
    paths = [str(path) for path in write_images(tmp_path / "set", images)]
    np.save(tmp_path / "array.npy", images)
    known = {(paths[1], 0), (paths[3], 0), (str(tmp_path / "array.npy"), 2)}

    def watched(path):
        decoded.append(path)
        return decode(path)

    monkeypatch.setattr(stream, "decode_file", watched)
    items = list(
        stream.read(
            [str(tmp_path / "set"), str(tmp_path / "array.npy")],
            known=lambda *key: key in known,
        )
    )
    np.testing.assert_array_equal(images_of(items), images[[0, 2, 0, 1, 3]])
    assert decoded == [paths[0], paths[2]]


@pytest.mark.parametrize("chunk", [1, 200, 2**24])
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("save", ["npy", "npz", "npz, small"])
def test_arrays_are_read_row_by_row(tmp_path, monkeypatch, save, rank, chunk):
    monkeypatch.setattr(stream, "CHUNK", chunk)
    images = random_images(0, 7, (5, 6, 1))
    array = images if rank == 4 else images[..., 0]
    path = str(tmp_path / f"images.{save[:3]}")
    if save == "npy":
        np.save(path, array)
    else:
        (np.savez if save == "npz" else np.savez_compressed)(path, x=array, y=np.arange(7))
    items = list(stream.read([path]))
    np.testing.assert_array_equal(images_of(items), images)
    assert [item.index for item in items] == list(range(7))
    assert stream.count([path, path]) == 14


def test_the_key_says_which_array(tmp_path):
    first, second = random_images(0, 2), random_images(1, 3)
    np.savez(tmp_path / "x.npz", first=first, second=second)
    path = str(tmp_path / "x.npz")
    np.testing.assert_array_equal(images_of(stream.read([path], "second")), second)
    with pytest.raises(InputError, match="keys first, second, and images under 2 of them; say"):
        list(stream.read([path]))
    with pytest.raises(InputError, match="keys first, second; expected third"):
        list(stream.read([path], "third"))


@pytest.mark.parametrize("save", [np.save, lambda path, array: np.savez(path, x=array, y=1)])
def test_of_an_array_in_fortran_order_is_said_what_to_save(tmp_path, save):
    path = tmp_path / ("x.npy" if save is np.save else "x.npz")
    save(path, np.asfortranarray(random_images(0, 3)))
    told = r"x\.np.* is in Fortran order, .*; save numpy.ascontiguousarray\(images\)\.$"
    with pytest.raises(InputError, match=told):
        stream.check([str(path)])


def test_a_damaged_image_or_path_among_many_is_told_and_passed_over(tmp_path, monkeypatch):
    images = random_images(0, 3)
    paths = write_images(tmp_path / "set", images)
    paths[1].write_bytes(b"no image")
    items = list(stream.read([str(tmp_path / "set")]))
    np.testing.assert_array_equal(images_of([items[0], items[2]]), images[[0, 2]])
    assert items[1].image is None and "0001.png cannot be decoded" in items[1].problem
    lines = "".join(f"{path}\n" for path in [*paths, tmp_path / "gone.png", tmp_path / "x.txt"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines + "\n"))
    items = list(stream.read(["-"]))
    assert [item.problem is None for item in items] == [True, False, True, False, False]
    assert "gone.png is not there" in items[3].problem
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    assert next(stream.read(["-"])).problem.startswith("' ' is not there; expected")
    assert stream.count(["-"]) is None


def listed(monkeypatch, text):
    file = io.TextIOWrapper(io.BufferedReader(io.BytesIO(text)), "utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "stdin", file)
    return stream.read(["-"])


def test_a_list_may_end_its_paths_by_nul_and_names_then_hold_line_breaks(tmp_path, monkeypatch):
    images = random_images(0, 3)
    paths = write_images(tmp_path, images)
    paths[0] = paths[0].rename(tmp_path / "a\nb.png")
    for end in (b"", b"\0"):
        text = b"\0".join(map(os.fsencode, paths)) + end
        np.testing.assert_array_equal(images_of(listed(monkeypatch, text)), images)
    crlf = "".join(f"{path}\r\n" for path in paths[1:]).encode()
    np.testing.assert_array_equal(images_of(listed(monkeypatch, crlf)), images[1:])


@pytest.mark.parametrize("text", [b"x" * 10**6, b"x\0" + b"\xff\n" * 10**5])
def test_what_is_no_list_of_paths_is_not_said_back(monkeypatch, text):
    with pytest.raises(InputError, match="4,096 letters on end that no path ends among") as refused:
        list(listed(monkeypatch, text))
    assert len(str(refused.value)) < 200


def test_what_cannot_be_used_is_counted_in_bounded_memory():
    unused = Unused()
    assert unused.reason == "the list of paths is empty."
    for i in range(3000):
        unused.add(stream.Item(f"{i}.PNG" if i % 3 else f"{i}", i, None, f"problem {i}", 2))
    unused.add(stream.Item("photos", 0, None, "not taken", 0, {".txt": 4}))
    assert unused.by_suffix == {".png": 4000, "without suffix": 2000} and unused.count == 6000
    assert unused.problems == [f"problem {i}" for i in range(1000)]
    assert (unused.reason, unused.not_taken) == ("problem 0", {".txt": 4})


def test_what_memory_does_not_hold_is_not_called_damaged(tmp_path, monkeypatch):
    (path,) = write_images(tmp_path, random_images(0, 1))

    def load(image):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    (item,) = stream.read([str(path)])
    assert item.problem == f"{path} does not fit into memory; resize it first."
    path.write_bytes(b"")
    (item,) = stream.read([str(path)])
    assert "(it is empty)" in item.problem


@pytest.mark.parametrize("chunk", [100, stream.CHUNK])
def test_an_array_that_ends_early_gives_what_it_has(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(stream, "CHUNK", chunk)
    images = random_images(0, 9)
    path = tmp_path / "x.npy"
    np.save(path, images)
    path.write_bytes(path.read_bytes()[:-100])
    items = list(stream.read([str(path)]))
    assert len(items) == 8
    np.testing.assert_array_equal(images_of(items[:7]), images[:7])
    assert "is damaged from image 7 on (" in items[7].problem
    assert items[7].count == 2


def test_a_damaged_archive_gives_what_comes_before(tmp_path):
    images = random_images(0, 60_000)  # 3.6 MB
    path = tmp_path / "x.npz"
    np.savez_compressed(path, images=images)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    *items, last = stream.read([str(path)])
    assert last.problem and last.index == len(items) and last.count == 60_000 - len(items)
    assert len(items) > 20_000
    np.testing.assert_array_equal(images_of(items[:20_000]), images[:20_000])


def test_links_are_followed_once_and_what_is_hidden_is_not_seen(tmp_path):
    images = random_images(0, 3)
    write_images(tmp_path / "elsewhere", images)
    write_images(tmp_path / "set" / ".thumbnails", images)
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    assert [item.path for item in stream.read([str(tmp_path / "set")])] == [
        str(tmp_path / "set" / "link" / f"{i:04}.png") for i in range(3)
    ]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    """By a system that refuses: as root, no mode does."""
    write_images(tmp_path / "set" / "a", random_images(0, 2))
    write_images(tmp_path / "set" / "closed", random_images(0, 2))
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items = list(stream.read([str(tmp_path / "set")]))
    assert stream.count([str(tmp_path / "set")]) == 3
    assert [item.problem is None for item in items] == [True, True, False]
    assert "closed cannot be read (Permission denied)" in items[2].problem
    with pytest.raises(InputError, match="the folder .*closed cannot be read"):
        stream.check([str(tmp_path / "set" / "closed")])


def test_large_arrays_are_never_whole_in_memory(tmp_path):
    path = str(tmp_path / "x.npz")
    np.savez_compressed(path, x=np.zeros((4000, 256, 256, 1), np.uint8))  # 262 MB, 260 kB packed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in stream.read([path])) == 4000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 120_000  # kB


@pytest.mark.parametrize("change", ["nothing", "none there", "text", "empty folder"])
def test_checking_reads_no_image(tmp_path, change):
    path = tmp_path / "x.txt" if change == "text" else tmp_path / "set"
    if change == "nothing":
        write_images(path, random_images(0, 2))[0].write_bytes(b"")
        return stream.check([str(path), "-"])
    if change == "text":
        path.write_text("")
    if change == "empty folder":
        path.mkdir()
    words = {"text": "no file of images", "empty folder": "holds no images"}
    with pytest.raises(InputError, match=words.get(change, "is not there")):
        stream.check([str(path)])


def test_only_regular_files_are_opened_and_all_others_are_counted(tmp_path):
    paths = write_images(tmp_path / "set", random_images(0, 1))
    os.mkfifo(tmp_path / "set" / "pipe.png")
    (tmp_path / "set" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "set" / "broken.png").symlink_to("nowhere")
    for name in ("a.HEIC", "b.heic", "notes", ".hidden.heic"):
        (tmp_path / "set" / name).write_bytes(b"")
    told = "2 .heic, 2 no regular file, 1 without suffix"
    image, broken, rest = stream.read([str(tmp_path / "set")])
    assert image.path == str(paths[0]) and image.image is not None
    assert "broken.png cannot be opened (No such file or directory)" in broken.problem
    assert (rest.count, rest.problem) == (0, f"not taken from {tmp_path / 'set'}: {told}")
    assert rest.others == {".heic": 2, "no regular file": 2, "without suffix": 1}
    assert stream.counted({f".{i}": 1 for i in range(13)}).endswith(", 3 of other suffixes")
    assert stream.count([str(tmp_path / "set")]) == 2
    with pytest.raises(InputError, match="pipe.png is no regular file; expected a folder"):
        stream.check([str(tmp_path / "set" / "pipe.png")])
    for path in (paths[0], tmp_path / "set" / "broken.png"):
        path.unlink()
    with pytest.raises(InputError, match=f"holds no images \\(but {told}\\); expected files"):
        stream.check([str(tmp_path / "set")])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "x.npz holds no arrays; expected one of images, uint8"),
        ({"a": np.zeros((2, 8, 8, 3))}, "is float64; expected uint8 .*: convert"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, "keys a, b, and images under 0 of them; say which"),
    ],
)
def test_an_archive_without_images_is_told_what_it_lacks(tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=words):
        stream.check([str(tmp_path / "x.npz")], None)
