"""A scorer, images that it has scored, and the page of them."""

import functools

import numpy as np

import ecood.score
from ecood import encoders, report
from ecood.data.stream import Item
from ecood.data.unused import Unused
from tests import small

NASTY = "<img src=x onerror=alert(1)>.png"
COUNT = 130
KNOWN = np.zeros(COUNT, bool)  # whether the scorer was made from an image


@functools.cache
def scorer():
    split = small.split(120, calibration=0.4)
    options = {"noise_strength": 0.1, "thumbnails": True}
    return ecood.score.fit(small.flow(), encoders.pixels(), split, **options)


@functools.cache
def images():
    return np.concatenate([small.images(COUNT - 12, seed=5), 255 - small.images(12, seed=6)])


def names():
    return [f"photos/{i:03}.png" for i in range(COUNT - 2)] + [f"photos/{NASTY}", "photos/a\u202eb"]


@functools.cache
def collected():
    found = report.Collected()
    items = [Item(name, 0, image) for name, image in zip(names(), images(), strict=True)]
    found.add(items[:64], scorer().detect(images()[:64]), KNOWN[:64])
    found.add(items[64:], scorer().detect(images()[64:]), KNOWN[64:])
    return found


@functools.cache
def page():
    unused = Unused()
    unused.add(Item("x", 0, None, f"{NASTY} cannot be decoded"))
    unused.add(Item("y", 3, None, "torn", 7))
    unused.add(Item("z", 0, None, "not taken from z: 2 .heic", 0, {".heic": 2}))
    return report.page(scorer(), collected(), unused, {"command": NASTY + "\udcff"})
