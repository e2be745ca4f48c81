"""How fast the flows, the memory bank, the detection path and the command line are.

    python -m experiments.speed
    python -m experiments.speed --what flow --json

flow: Glow's log-densities and training steps against `normflows`; bank: exact nearest similarity
against faiss-cpu's `IndexFlatIP` (7 GB for the larger bank); path: each shipped scorer against its
likelihood plus encoder; command: `python -m ecood score` of 100 files the second time against the
first, and of 100,000 against the compiled path. docs/speed.md has the settings. A ratio above one
says that ours is faster; where parts take turns it is the median of five, whose ends are told, too.
Nothing is installed: what a part needs and cannot find, it names. Leave the machine alone
meanwhile.
"""

import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike
from PIL import Image

from ecood import memory, score
from ecood.batches import BATCH_SIZE
from ecood.detector import Score
from ecood.errors import InputError
from ecood.flows import Glow
from ecood.score.forms import PAPER
from ecood.statistics import bits
from experiments import report

BUSY = 0.5  # programs that want to run; they would slow ours and the peer's unequally
TURNS = 5
PASSES = 5  # of a detection path in each turn; one takes as little as 0.03 s
SIZES, LEVELS, SHAPE, BATCH = ((8, 96), (16, 256)), 3, (32, 32, 3), 64  # of Glow: K and h
STEPS = 4  # of training at a time; ours in one program, as `ecood.train` takes them
PRODUCT = 3072  # rows and columns of the matrices whose product is the machine's peak
GFLOP = 2 * PRODUCT**3 / 1e9  # of that product
BANKS, QUERIES, FEATURES = (50_000, 1_000_000), 1_000, 384
FEW, MANY, STREAMED = 100, 100_000, "fashion_mnist"  # files, and the scorer that streams them


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.speed", __doc__, "runs/speed")
    add = parser.add_argument
    add("--what", choices=(*PARTS, "all"), default="all", help="which part (default: all)")
    add("--json", action="store_true", help="print the rows as JSON instead of a table")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the machine is busy (load {load:.1f}): measure when it is idle", file=sys.stderr)
    rows = measure(arguments.what)
    header = ["what", "peer", "unit", "ours", "peer's", "times as fast", "in turns", "of peak"]
    body = []
    for row in rows:
        names, numbers = (row["what"], row["peer"], row["unit"]), (row["ours"], row["theirs"])
        share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
        turns = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
        turns = turns if len(row["ratios"]) > 1 else ""
        body.append([*names, *(f"{n:.4g}" for n in numbers), f"{row['ratio']:.2f}", turns, share])
    printed = json.dumps(rows, indent=1) if arguments.json else None
    report.write(arguments, {"rows": rows}, report.table(header, body), printed=printed)


def measure(what: str = "all") -> list[dict[str, Any]]:
    """The rows of one part, refused without its peer, or of all whose peers are installed."""
    rows = []
    for part in PARTS if what == "all" else [what]:
        print(f"measuring: {part}", file=sys.stderr)
        try:
            rows += PARTS[part]()
        except InputError as error:
            if what == part:
                raise
            print(f"{part} is left out: {error}", file=sys.stderr)
    return rows


def take_turns(*runs: Callable[[], Any]) -> np.ndarray:
    """Seconds of each, results included, [runs, TURNS], turn by turn, as load may drift."""
    seconds = np.empty((len(runs), TURNS))
    for turn in range(TURNS):
        for run, taken in zip(runs, seconds, strict=True):
            jax.block_until_ready(run())  # untimed: the other's data and threads are still there
            started = time.perf_counter()
            jax.block_until_ready(run())
            taken[turn] = time.perf_counter() - started
    return seconds


def compared(
    what: str, peer: str, unit: str, ours: ArrayLike, theirs: ArrayLike, **more: Any
) -> dict[str, Any]:
    """A row: medians over the turns, [T], of both and of their ratio; `ratios` are the turns' own.

    A ratio says how many times as fast ours is, whether the unit is "s" or a rate.
    """
    ours, theirs = np.atleast_1d(ours), np.atleast_1d(theirs)
    ratios = theirs / ours if unit == "s" else ours / theirs
    medians = {"ours": ours, "theirs": theirs, "ratio": ratios}
    told = {name: float(np.median(turns)) for name, turns in medians.items()}
    return {"what": what, "peer": peer, "unit": unit, **told, "ratios": ratios.tolist(), **more}


def peer(name: str, install: str) -> Any:
    """The module to compare with, refused if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        told = f"{name}, to compare with, is not installed; run {install}."
        raise InputError(told) from None


def search(size: int) -> dict[str, Any]:
    """Nearest similarity in a random bank; `temporary_bytes` are the search's own, as XLA plans."""
    faiss = peer("faiss", "`pip install faiss-cpu`")
    rng = np.random.default_rng(0)
    queries, bank = (rng.standard_normal((n, FEATURES), np.float32) for n in (QUERIES, size))
    for x in (queries, bank):
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(FEATURES)
    index.add(bank)
    ours = jnp.asarray(bank), jnp.asarray(queries)
    program = jax.jit(memory.nearest_similarity).lower(*ours).compile()
    seconds = take_turns(lambda: program(*ours), lambda: index.search(queries, 1))
    difference = np.abs(np.asarray(program(*ours)) - index.search(queries, 1)[0][:, 0])
    more = {"temporary_bytes": program.memory_analysis().temp_size_in_bytes}
    more |= {"bank_bytes": ours[0].nbytes, "largest_difference": float(difference.max())}
    what = f"search {QUERIES} x {size:,} x {FEATURES}"
    return compared(what, "faiss IndexFlatIP", "s", *seconds, **more)


def path(name: str) -> list[dict[str, Any]]:
    """A shipped scorer's detection path in its own form, two likelihoods, and in the paper's."""
    scorer, key = score.load(name), jax.random.key(0)
    shape = (2, BATCH_SIZE, *scorer.image_shape)
    images, others = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape), jnp.uint8)
    state, whole = scorer.state, jax.jit(Score(score.detect))

    @jax.jit
    def parts(state: score.SPEMState, images: jax.Array, *others: jax.Array) -> Any:
        return [bits(state.flow, key, x) for x in (images, *others)], state.encoder.embed(images)

    def passes(program: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        return lambda: [jax.block_until_ready(program(*arguments)) for _ in range(PASSES)][-1]

    seconds = take_turns(
        passes(whole, state, key, images),
        passes(whole, state.replace(form=PAPER), key, images),
        passes(parts, state, images),
        passes(parts, state, images, others),
    )
    own, papers, one, two = seconds / PASSES
    return [
        compared(f"detection path, {name}, {form}, {BATCH_SIZE} images", what, "s", *seconds)
        for form, what, *seconds in (
            ("own form", "likelihood + encoder", own, one),
            ("own form", "two likelihoods + encoder", own, two),
            ("paper's form", "likelihood + encoder", papers, one),
        )
    ]


def command(name: str) -> list[dict[str, Any]]:
    """`python -m ecood score` of files, as a whole process, that finds its programs kept or not."""
    shape = (1000, *score.load(name).image_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        (once, once_cpu, _), (again, cpu, few) = [
            commanded(name, images[:FEW], folder) for _ in range(2)
        ]
        more = {"cpu_seconds": cpu, "first_cpu_seconds": once_cpu}
        what = f"score {FEW} files, {name}, programs kept"
        rows = [compared(what, "the first time", "s", again, once, **more)]
        if name == STREAMED:
            seconds, cpu, many = commanded(name, np.tile(images, (MANY // 1000, 1, 1, 1)), folder)
            (path,) = take_turns(lambda: score.load(name).detect(images))
            more = {"cpu_seconds": cpu, "megabytes": [few, many]}
            rates = (MANY - FEW) / (seconds - again), len(images) / np.median(path)
            what = f"score {MANY:,} files, {name}"
            rows.append(compared(what, "compiled path alone", "images/s", *rates, **more))
    return rows


def commanded(name: str, images: np.ndarray, folder: str) -> tuple[float, float, float]:
    """(seconds, CPU seconds, peak MB) of a process that scores these images as PNG files."""
    files = pathlib.Path(folder, str(len(images)))
    if not files.exists():
        files.mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.squeeze()).save(files / f"{i}.png")
    words = [sys.executable, "-m", "ecood", "score", str(files), "--scorer", name]
    environment, started = os.environ | {"XDG_CACHE_HOME": folder}, time.perf_counter()
    between = [sys.executable, "-c", WATCHED, *words]
    process = subprocess.run(between, env=environment, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise InputError(f"`{' '.join(words)}` failed; run it to see why.")
    cpu, kilobytes = map(float, process.stdout.split())
    return seconds, cpu, kilobytes / 1e3


# A process's peak counts what it was forked from, which must be small.
WATCHED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(done.returncode)
"""


class Work(NamedTuple):
    """A model's log-densities of a batch, `STEPS` training steps of it, its parameters' number."""

    forward: Callable[[], Any]
    train: Callable[[], Any]
    parameters: int


def all_flows() -> list[dict[str, Any]]:
    """Matrix products, and the flows, whose shares refer to the products' rates in their turns."""
    where = "(torch from https://download.pytorch.org/whl/cpu, if there is no GPU)"
    peer("normflows", f"`pip install torch normflows` {where}")
    products = {dtype: _products(dtype) for dtype in ("float32", "bfloat16")}
    product = f"matrix product {PRODUCT} x {PRODUCT} x {PRODUCT}"
    rows = [
        compared(f"{product} {dtype}", "torch", "GFLOP/s", *(GFLOP / take_turns(*both)))
        for dtype, both in products.items()
    ]
    ours = {dtype: both[0] for dtype, both in products.items()}
    return rows + [row for size in SIZES for row in _glow(*size, ours)]


def _glow(depth: int, width: int, products: dict[str, Callable[[], Any]]) -> list[dict[str, Any]]:
    """Both dtypes against the peer in the same (autocast's), and bfloat16 against its float32."""
    images = np.random.default_rng(0).random((BATCH, *SHAPE), np.float32)
    makers, flops = (our_glow, _their_glow), Glow(SHAPE, depth, LEVELS, width).forward_flops
    models = [make(depth, width, images, dtype) for make in makers for dtype in products]
    counts = {"parameters": models[0].parameters, "peer_parameters": models[2].parameters}
    if not 0.95 < counts["parameters"] / counts["peer_parameters"] < 1.05:
        raise RuntimeError(f"the models differ in size: {counts}")
    measured = []
    for work, passes, count in (("forward", 1, BATCH), ("train", 3, STEPS * BATCH)):  # arithmetic's
        seconds = take_turns(*(getattr(model, work) for model in models), *products.values())
        float32, bfloat16, peer_float32, peer_bfloat16 = (count / s for s in seconds[:4])
        peaks = dict(zip(products, GFLOP / seconds[4:], strict=True))
        for suffix, dtype, name, ours, theirs in (
            ("", "float32", "normflows", float32, peer_float32),
            (" bfloat16", "bfloat16", "normflows, autocast to bfloat16", bfloat16, peer_bfloat16),
            (" bfloat16 against float32", "bfloat16", "normflows", bfloat16, peer_float32),
        ):
            gflops = ours * passes * flops / 1e9
            share = float(np.median(gflops / peaks[dtype]))
            more = counts | {"gflops": float(np.median(gflops)), "share_of_peak": share}
            what = f"glow {work} K={depth} h={width}{suffix}"
            measured.append(compared(what, name, "images/s", ours, theirs, **more))
    return measured


def our_glow(depth: int, width: int, images: np.ndarray, dtype: str) -> Work:
    """Ecood's Glow of images of `SHAPE`, float32 [B, H, W, C], with networks in `dtype`."""
    model = Glow(SHAPE, depth=depth, levels=LEVELS, width=width, dtype=jnp.dtype(dtype))
    x, optimizer, log_prob = jnp.asarray(images), optax.adam(1e-4), jax.jit(model.apply)
    variables = jax.jit(model.init)(jax.random.key(0), x)

    def loss(params: Any, fixed: Any, x: jax.Array) -> jax.Array:
        return -jnp.mean(model.apply({"params": params, "fixed": fixed}, x))

    @jax.jit(donate_argnums=0)
    def steps(state: tuple[Any, Any], fixed: Any, x: jax.Array) -> tuple[Any, Any]:
        def step(_: int, state: tuple[Any, Any]) -> tuple[Any, Any]:
            params, moments = state
            updates, moments = optimizer.update(jax.grad(loss)(params, fixed, x), moments)
            return optax.apply_updates(params, updates), moments

        return jax.lax.fori_loop(0, STEPS, step, state)

    params = jax.tree.map(jnp.copy, variables["params"])
    state = (params, optimizer.init(params))

    def train() -> Any:
        nonlocal state
        state = steps(state, variables["fixed"], x)
        return state

    return Work(lambda: log_prob(variables, x), train, sum(p.size for p in jax.tree.leaves(params)))


def _their_glow(depth: int, width: int, images: np.ndarray, dtype: str) -> Work:
    """Theirs, as in the Glow example of normflows' documentation: the same steps and splits."""
    import normflows as nf
    import torch

    torch.manual_seed(0)
    h, w, c = SHAPE
    priors, merges, flows = [], [], []
    for level in range(LEVELS, 0, -1):  # its order is from the latent to the image
        channels, options = c << (level + 1), {"split_mode": "channel", "scale": True}
        blocks = [nf.flows.GlowBlock(channels, width, **options) for _ in range(depth)]
        flows.append([*blocks, nf.flows.Squeeze()])
        split = channels if level == LEVELS else channels // 2
        priors.append(nf.distributions.DiagGaussian((split, h >> level, w >> level)))
        merges += [nf.flows.Merge()] if level < LEVELS else []
    model = nf.MultiscaleFlow(priors, flows, merges)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")

    def forward() -> None:
        with torch.no_grad(), autocast:
            model.log_prob(x, None)

    def train() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            with autocast:
                loss = -model.log_prob(x, None).mean()
            loss.backward()
            optimizer.step()

    forward()  # its act-norms take their values from the first batch
    return Work(forward, train, sum(p.numel() for p in model.parameters() if p.requires_grad))


def _products(dtype: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One large matrix product, ours and torch's."""
    import torch

    a, b = np.random.default_rng(0).standard_normal((2, PRODUCT, PRODUCT), np.float32)
    ours = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    theirs = [torch.from_numpy(m).to(getattr(torch, dtype)) for m in (a, b)]
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    return lambda: multiply(*ours), lambda: torch.matmul(*theirs)


PARTS = {
    "flow": all_flows,
    "bank": lambda: [search(size) for size in BANKS],
    "path": lambda: [row for name in score.shipped() for row in path(name)],
    "command": lambda: [row for name in score.shipped() for row in command(name)],
}

if __name__ == "__main__":
    report.main(run, build_parser())
