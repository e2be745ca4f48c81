"""How the cost of a score grows: with images, the memory bank, the images' size, the flow's depth.

    python -m experiments.scaling

Seconds of the compiled path around flows with random parameters, medians of five turns, and the
slopes of their logarithms over the larger half of the sizes: 1 is cost in proportion. Writes
`report.json`, `report.md` and `scaling.png`. Two to three minutes on two CPU cores; leave them
alone.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ecood import encoders, flows, memory, score
from ecood.detector import detections
from ecood.splits import Split
from experiments import figures, report
from experiments.speed import take_turns

COUNTS = (64, 256, 1_024, 4_096)  # images of 28 x 28
ROWS = (1_000, 10_000, 100_000, 400_000)  # of a bank of 384 features, for 256 queries
SIDES = (16, 32, 64, 128)  # of 16 colour images
DEPTHS = (2, 4, 8, 16, 32)  # K of a Glow of 256 images of 16 x 16


def run(arguments: argparse.Namespace) -> None:
    """Measures, draws and writes."""
    rows = [
        measured("images", COUNTS, lambda n: path((28, 28, 1), n)),
        measured("rows of the bank", ROWS, search),
        measured("side of an image", SIDES, lambda side: path((side, side, 3), 16)),
        measured("K, steps a level", DEPTHS, lambda depth: path((16, 16, 1), 256, depth)),
    ]
    header = ["against", "sizes", "seconds", "slope of the larger ones"]
    body = []
    for row in rows:
        sizes, seconds = (f"{n:,}" for n in row["sizes"]), (f"{s:.3g}" for s in row["seconds"])
        body.append([row["what"], ", ".join(sizes), ", ".join(seconds), f"{row['slope']:.2f}"])
    figures.growth(arguments.out / "scaling.png", rows)
    report.write(arguments, {"rows": rows}, report.table(header, body), also=["scaling.png"])


def measured(
    what: str, sizes: Sequence[int], prepare: Callable[[int], Callable[[], Any]]
) -> dict[str, Any]:
    """A row: seconds of what is prepared for each size, and the slope over the larger half."""
    print(f"measuring: {what}", flush=True)
    seconds = np.median(take_turns(*map(prepare, sizes)), axis=1).tolist()
    larger = slice(len(sizes) // 2 - 1, None)
    slope = np.polyfit(np.log(sizes[larger]), np.log(seconds[larger]), 1)[0]
    return {"what": what, "sizes": sizes, "seconds": seconds, "slope": float(slope)}


def path(shape: tuple[int, int, int], count: int, depth: int = 4) -> Callable[[], Any]:
    """SPEM's detections of `count` random images, by a small Glow and random features."""
    module = flows.Glow(shape, depth=depth, levels=2, width=32)
    images = np.random.default_rng(0).integers(0, 256, (64 + count, *shape), np.uint8)
    (*id_images, images), key = np.split(images, [32, 64]), jax.random.key(0)
    variables = jax.jit(module.init)(key, id_images[0] / np.float32(256))
    encoder = encoders.random_features(key, shape[-1])
    detector = score.spem(flows.bind(module, variables), encoder, noise_strength=0.1)
    state = detector.fit(key, Split(*id_images, images[:0]))
    return lambda: detections(detector, state, key, images)


def search(rows: int) -> Callable[[], Any]:
    """The nearest similarities of 256 random embeddings to as random a bank."""
    program, keys = jax.jit(memory.nearest_similarity), jax.random.split(jax.random.key(0))
    drawn = zip(keys, (rows, 256), strict=True)
    bank, queries = (memory.unit_norm(jax.random.normal(key, (n, 384))) for key, n in drawn)
    return lambda: program(bank, queries)


if __name__ == "__main__":
    report.main(run, report.parser("experiments.scaling", __doc__, "runs/scaling"))
