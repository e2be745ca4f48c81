"""How fast the memory bank is searched, and what detecting costs on top of the likelihood.

    python -m experiments.speed_bank

1,000 queries against banks of 50,000 and 1,000,000 embeddings of length 384, random and of unit
norm, ours against faiss-cpu's `IndexFlatIP`, turn by turn in one process (7 GB of memory for
the larger bank); and the detection path of each shipped scorer against likelihood plus encoder.
Each is run once before it is timed; the times are medians of the turns.
"""

import argparse
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ecood.score
from ecood import memory
from ecood.batches import BATCH_SIZE
from ecood.errors import InputError
from experiments import report

BANKS = (50_000, 1_000_000)
QUERIES, FEATURES = 1_000, 384
TURNS = 5


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.speed_bank",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/speed_bank"))
    add("--what", choices=("bank", "path", "all"), default="all")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    rows = measure(arguments.what)
    lines = ["| what | peer | ours, s | peer, s | peer / ours |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        numbers = f"{row['ours']:.3f} | {row['theirs']:.3f} | {row['ratio']:.2f}"
        lines.append(f"| {row['what']} | {row['peer']} | {numbers} |")
    table = "\n".join(lines)
    print(table)
    report.write_json(arguments.out / "report.json", {"rows": rows, **report.identify(arguments)})
    report.write_text(arguments.out / "report.md", table + "\n")


def measure(what: str = "all") -> list[dict[str, Any]]:
    """One entry a comparison: what, peer, seconds of ours and theirs, ratio = theirs / ours.

    Searches also tell what they add to the memory that bank and queries take, in bytes:
    `peak_bytes` as the operating system saw it (None where it does not tell), `temporary_bytes`
    as XLA planned it.

    Raises:
      InputError: if faiss is not installed.
    """
    searches = [] if what == "path" else [search(rows) for rows in BANKS]
    paths = [] if what == "bank" else [p for name in ecood.score.shipped() for p in path(name)]
    return searches + paths


def search(rows: int) -> dict[str, Any]:
    """Nearest similarity of all queries."""
    try:
        import faiss
    except ImportError:
        raise InputError(
            "faiss, to compare with, is not installed; run `pip install faiss-cpu`."
        ) from None
    rng = np.random.default_rng(0)
    queries, bank = (_unit(rng, count) for count in (QUERIES, rows))
    index = faiss.IndexFlatIP(FEATURES)
    index.add(bank)
    ours = jax.block_until_ready((jnp.asarray(bank), jnp.asarray(queries)))
    del bank
    program = jax.jit(memory.nearest_similarity).lower(*ours).compile()
    peak = _peak_growth(lambda: program(*ours).block_until_ready())
    found = np.asarray(program(*ours))
    expected = index.search(queries, 1)[0][:, 0]
    seconds = _take_turns(
        lambda: program(*ours).block_until_ready(), lambda: index.search(queries, 1)
    )
    return _entry(f"search {QUERIES} x {rows:,} x {FEATURES}", "faiss IndexFlatIP", seconds) | {
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        "peak_bytes": peak,
        "bank_bytes": ours[0].nbytes,
        "largest_difference": float(np.abs(found - expected).max()),
    }


def path(name: str) -> list[dict[str, Any]]:
    """A shipped scorer's detection path, in its own form and in the paper's."""
    scorer = ecood.score.load(name)
    flow, encoder, state = scorer.flow, scorer.encoder, scorer.state
    images = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, *scorer.image_shape))
    images, key = jnp.asarray(images, jnp.uint8), jax.random.key(0)
    likelihood = ecood.score.likelihood(flow)

    @jax.jit
    def parts(state: Any, key: jax.Array, images: jax.Array):
        bits = likelihood.score(state.flow, key, images)
        return bits, encoder.embed(state.encoder, images)

    whole = jax.jit(ecood.score.detection_path(flow, encoder, scorer.draws, scorer.antithetic))
    entries = []
    for form, its_state in (("own form", state), ("paper's form", state._replace(usual=None))):
        seconds = _take_turns(
            lambda its_state=its_state: jax.block_until_ready(whole(its_state, key, images)),
            lambda: jax.block_until_ready(parts(state, key, images)),
        )
        what = f"detection path, {name}, {form}, {BATCH_SIZE} images"
        entries.append(_entry(what, "likelihood + encoder", seconds))
    return entries


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    x = rng.standard_normal((count, FEATURES), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def _take_turns(*runs: Callable[[], Any]) -> list[float]:
    """Median seconds of each, after one run that is not timed; turn by turn, as load may drift."""
    seconds = [[] for _ in runs]
    for turn in range(TURNS + 1):
        for run_, taken in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            run_()
            if turn > 0:
                taken.append(time.perf_counter() - started)
    return [float(np.median(taken)) for taken in seconds]


def _entry(what: str, peer: str, seconds: list[float]) -> dict[str, Any]:
    ours, theirs = seconds
    return {"what": what, "peer": peer, "ours": ours, "theirs": theirs, "ratio": theirs / ours}


def _peak_growth(work: Callable[[], Any]) -> int | None:
    """By how many bytes the process's resident memory grows at most during the work; Linux only."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = _resident("VmRSS")
        work()
        return _resident("VmHWM") - before
    except OSError:
        return None


def _resident(name: str) -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])


if __name__ == "__main__":
    report.main(run, build_parser())
