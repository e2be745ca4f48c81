"""Scores images: a folder, an array file, image files, or a list of paths.

    python -m ecood score photos/ --scorer my_scorer --out scores.csv
    find . -name '*.png' | python -m ecood score - --scorer my_scorer --format jsonl

One line an image: path, index (in an array file), score (larger = more OOD), p_value (small = OOD;
empty if the scorer is not calibrated), what the score was made from (similarity, noise_scale,
perturbed_bits, bits, code_length), and with --fpr is_ood. Some images are scored and written while
the next are read, so memory does not grow with their number. An image that is damaged, or has
another shape than the scorer takes, is told on standard error and passed over; the exit code is
then 1. The run stops if none of the first 100 can be used or, without --scorer, at the first
image that does not fit the default scorer. It begins with which scorer it uses, and ends with what
it found.
"""

import argparse
import contextlib
import itertools
import math
import pathlib
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

import ecood.score
from ecood import conformal
from ecood.batches import watched
from ecood.cli import clash, output, scorers, summary
from ecood.cli.output import Row
from ecood.data import sizes, stream
from ecood.data.prepared import quiet
from ecood.data.unused import Unused
from ecood.errors import UNREADABLE, InputError, check_regular
from ecood.metrics import normal_quantile
from ecood.progress import Progress, progress_bar, tell
from ecood.score import Detection, Program, Scorer
from ecood.weights import is_stream
from ecood.words import number_of, short

__all__ = [
    "RESIZE_HELP",
    "SUMMARY_HELP",
    "add_arguments",
    "add_embeddings",
    "at_once",
    "in_chunks",
    "limit_at",
    "measured",
    "read_embeddings",
    "run",
    "usable",
]

CHUNK = 512  # images that are scored at a time; as many are read meanwhile
TOLD = 3  # unusable images in a row whose one reason is repeated
GIVE_UP = 100  # unusable images in a row, from the first on

DEFAULT = "fashion_mnist"
SUMMARY_HELP = "write what the run found as JSON"
RESIZE_HELP = "convert images of another shape: grey to RGB and back, bilinear, aspect not kept"
EMBEDDINGS_HELP = """an .npy file with the embedding of each image, float [N, d], computed
elsewhere; goes with one .npy or .npz file of images"""
FORMAT_HELP = "of the output (default: jsonl if FILE ends in .jsonl or .ndjson, else csv)"
DRIFT_HELP = "test whether these images are exchangeable with the calibration's; plot the p-values"

BINS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="folder, image, .npy, .npz, or - for a list")
    add("--scorer", help=f"{scorers.SCORER_HELP} (default: {DEFAULT}, if it fits)")
    scorers.add_trust(parser)
    add("--format", choices=("csv", "jsonl"), help=FORMAT_HELP)
    add("--out", type=_out, metavar="FILE", help="what to write (default: -, standard output)")
    add("--fpr", type=float, help="flag images, at most this share of ID images, e.g. 0.05")
    add("--resize", action="store_true", help=RESIZE_HELP)
    add("--key", help="the key of the images in an .npz file")
    add_embeddings(parser)
    add("--drift", type=pathlib.Path, metavar="PNG", help=DRIFT_HELP)
    add("--json-summary", type=pathlib.Path, metavar="FILE", help=SUMMARY_HELP)


def add_embeddings(parser: argparse.ArgumentParser) -> None:
    """The argument that gives embeddings beside the images."""
    parser.add_argument("--embeddings", type=pathlib.Path, metavar="NPY", help=EMBEDDINGS_HELP)


def _out(text: str) -> pathlib.Path | None:
    """The file to write, None for standard output."""
    return None if text == "-" else pathlib.Path(text)


def run(arguments: argparse.Namespace) -> int:
    """Scores, writes, tells what was passed over."""
    if arguments.out is None and sys.stdout is None:
        raise InputError("standard output is closed; give the file to write with --out.")
    stream.check(arguments.paths, arguments.key)
    outputs = (arguments.out, arguments.drift, arguments.json_summary)
    name = DEFAULT if arguments.scorer is None else arguments.scorer
    clash.check(outputs, (*arguments.paths, arguments.embeddings, *scorers.parts(name)))
    clash.check_text((arguments.out, arguments.json_summary))
    _check(arguments)
    embeddings = read_embeddings(arguments)
    if arguments.scorer is None and arguments.resize:
        raise _no_default("--resize would bring any image to the shape of the default scorer")
    scorer = scorers.find(name, arguments)
    limit = _limit(scorer, arguments)
    tell(summary.introduce(name, scorer))
    unused, scores, tested = Unused(), [], []
    with (
        output.opened(arguments, scorer) as rows,
        progress_bar(stream.count(arguments.paths, arguments.key), "scoring") as bar,
    ):
        if rows.done:
            scores.append(np.float32([row.score for row in rows.done]))
            tested.append(np.array([row.tested for row in rows.done]))
            bar.update(len(rows.done))
        done = [(row.path, row.index) for row in rows.done]
        new = usable(arguments, scorer, unused, bar, outputs, done)

        def score(items: list[stream.Item]) -> list[Row]:
            return _rows(scorer, items, limit, embeddings)

        for more in in_chunks(new, score, bar, at_once(scorer)):
            scores.append(np.float32([row["score"] for row in more]))
            tested.append(np.array([row["p_value"] is not None for row in more]))
            rows.add(more)
        if not scores:
            raise InputError(f"no image could be scored: {unused.reason}")
        scores, tested = np.concatenate(scores), np.concatenate(tested)
        found = summary.summarise(name, scorer, scores, tested, unused, arguments.fpr)
        if arguments.drift is not None:
            if not tested.any():
                raise InputError(
                    "--drift needs new images, and the scorer was made from all of these; leave it "
                    "out, or give others."
                )
            drift = conformal.Drift(**found["drift"])
            rows.files[arguments.drift] = partial(_plot, scorer.calibration, scores[tested], drift)
        if arguments.json_summary is not None:
            rows.files[arguments.json_summary] = partial(summary.write, found)
    for sentence in summary.sentences(found):
        tell(sentence)
    return 1 if found["passed_over"] else 0


def in_chunks(
    items: Iterator[stream.Item],
    work: Callable[[list[stream.Item]], Any],
    bar: Progress,
    threads: int = 1,
) -> Iterator[Any]:
    """The results of `work` on chunk after chunk, done in threads while this one reads the next.

    The first is alone, which compiles. Whoever takes no more of them, or is interrupted, waits for
    the batches at hand, not for the chunks.
    """
    ended = threading.Event()

    def go_on(count: int) -> None:
        if ended.is_set():
            raise CancelledError

    def watched_work(chunk: list[stream.Item]) -> Any:
        with watched(go_on):
            return work(chunk)

    pending: deque[tuple[Future[Any], int]] = deque()

    def take() -> Any:
        future, count = pending.popleft()
        result = future.result()
        bar.update(count)
        return result

    with ThreadPoolExecutor(threads) as pool, contextlib.ExitStack() as leaving:
        leaving.callback(ended.set)
        alone = True
        while chunk := list(itertools.islice(items, CHUNK)):
            while len(pending) >= (1 if alone else threads):
                yield take()
                alone = False
            pending.append((pool.submit(watched_work, chunk), len(chunk)))
        while pending:
            yield take()


def at_once(scorer: Scorer | Program) -> int:
    """How many chunks a scorer may be given at once, which fill each other's gaps on a CPU.

    One where devices share a batch, as they must all begin the same one, and with parts of
    somebody's own, which may call back into Python and wait there for another's end.
    """
    own = isinstance(scorer, Scorer) and scorer.made_by is not None
    return 1 if own or jax.device_count() > 1 else 2


def _check(arguments: argparse.Namespace) -> None:
    """What can be refused before the scorer is loaded."""
    if arguments.fpr is not None:
        conformal.check_fpr(arguments.fpr)
    path = arguments.drift
    if path is not None and path.suffix.lower() != ".png" and not is_stream(path):
        raise InputError(f"--drift is {path}; expected the name of a picture that ends in .png.")


def read_embeddings(arguments: argparse.Namespace) -> np.ndarray | None:
    """The embeddings of the images, float [N, d], or None where the scorer's encoder runs here."""
    path, paths = arguments.embeddings, arguments.paths
    if path is None:
        return None
    if len(paths) > 1 or not paths[0].lower().endswith((".npy", ".npz")):
        raise InputError(
            f"--embeddings goes with one .npy or .npz file of images, not with {', '.join(paths)}; "
            "put the images into one."
        )
    check_regular(path)
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except UNREADABLE as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{path} cannot be read as embeddings ({reason}); expected an .npy "
            "file of floats [N, d]."
        ) from error
    if found.ndim != 2 or len(found) != stream.count(paths, arguments.key):
        raise InputError(
            f"{path} has the shape {list(found.shape)}; expected [N, d] with a row for each of "
            f"the {number_of(stream.count(paths, arguments.key), 'image')}."
        )
    return found


def _limit(scorer: Scorer | Program, arguments: argparse.Namespace) -> float | None:
    """The threshold, if one is asked for."""
    if arguments.drift is not None:
        scorer.threshold()  # refuses a scorer that is not calibrated
    return None if arguments.fpr is None else limit_at(arguments.fpr, scorer)


def limit_at(fpr: float, scorer: Scorer | Program) -> float:
    """The threshold at the rate of --fpr, refused if the calibration images are too few for it."""
    found = scorer.threshold(fpr)
    if found == float("inf"):
        n = len(scorer.calibration)
        raise InputError(
            f"--fpr is {fpr}, at which {number_of(n, 'calibration image')} cannot flag "
            f"anything; ask for {_at_least(1 / (n + 1))} or more, or calibrate on more images: "
            "`fit` puts a tenth of its images aside for that, `calibrate` takes any."
        )
    return found


def _at_least(rate: float) -> str:
    """A rate of at most 1 with two digits, rounded up."""
    digits = 1 - math.floor(math.log10(rate))
    return f"{math.ceil(rate * 10**digits) / 10**digits:g}"


def _no_default(reason: str) -> InputError:
    shipped = ", ".join(ecood.score.shipped())
    return InputError(
        f"{reason}, {DEFAULT}; name the scorer of your images with --scorer: a directory that "
        f"`fit` wrote, or one of {shipped}."
    )


def usable(
    arguments: argparse.Namespace,
    scorer: Scorer | Program,
    unused: Unused,
    bar: Progress,
    outputs: Iterable[pathlib.Path | None],
    done: Sequence[tuple[str, int]] = (),
) -> Iterator[stream.Item]:
    """The images in the scorer's shape; what cannot be used is told and noted in `unused`.

    Those that are done are left out; a path that is given twice is done twice.
    """
    found, refused, written = bool(done), 0, clash.identities(outputs)
    reason, in_a_row, left = "", 0, Counter(done)

    def known(*key: Any) -> bool:
        if not left[key]:
            return False
        left[key] -= 1
        return True

    for item in stream.read(arguments.paths, arguments.key, known):
        clash.check_read(item.path, written)
        what = item.path if item.index == 0 else f"{item.path}, image {item.index},"
        if item.problem is None:
            try:
                image = sizes.conform(item.image, scorer.image_shape, arguments.resize, what)
                item = item._replace(image=image)
            except InputError as error:
                if arguments.scorer is None:
                    shape = list(item.image.shape)
                    raise _no_default(
                        f"{what} has shape {shape}, which is not that of the default scorer"
                    ) from error
                item = item._replace(image=None, problem=str(error))
        if item.problem is None:
            found = True
            yield item
            continue
        unused.add(item)
        if not item.count:  # the summary tells
            continue
        before, reason = reason, item.problem.replace(what, "")
        in_a_row = in_a_row + 1 if reason == before else 1
        same = f"passed over for the same reason: {what.removesuffix(',')}"
        tell(f"passed over: {item.problem}" if in_a_row <= TOLD else same)
        bar.update(item.count)
        refused += 1
        if not found and refused == GIVE_UP:
            raise InputError(
                f"none of the first {GIVE_UP} images can be used: {unused.problems[0]}"
            )


def measured(
    scorer: Scorer | Program, items: list[stream.Item], embeddings: np.ndarray | None
) -> tuple[Detection, np.ndarray]:
    """What a scorer finds of images, and which of them it was made from, bool [N]."""
    images = np.stack([item.image for item in items])
    options = {}
    if embeddings is not None:
        options["embeddings"] = embeddings[[item.index for item in items]]
    return scorer.detect(images, **options), scorer.made_from(images)


def _rows(
    scorer: Scorer | Program,
    items: list[stream.Item],
    limit: float | None,
    embeddings: np.ndarray | None,
) -> list[Row]:
    found, known = measured(scorer, items, embeddings)
    tested, p_values = np.zeros(len(items), bool), [None] * len(items)
    if scorer.calibration is not None:
        tested, p_values = ~known, conformal.p_values(scorer.calibration, found.score)
    columns = {
        "path": [item.path for item in items],
        "index": [item.index for item in items],
        "score": list(map(short, found.score)),
        "p_value": [short(p) if new else None for p, new in zip(p_values, tested, strict=True)],
    }
    parts = found._asdict()
    del parts["score"]
    columns |= {name: list(map(short, values)) for name, values in parts.items()}
    if limit is not None:
        flags = (found.score > limit).tolist()
        columns["is_ood"] = [flag if new else None for flag, new in zip(flags, tested, strict=True)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plot(
    calibration: np.ndarray, scores: np.ndarray, found: conformal.Drift, path: pathlib.Path
) -> None:
    """Writes a PNG: the histogram and the distribution function of the p-values.

    The grey band holds 95% of the bins of a batch that has not drifted, with the chance
    in the calibration set counted in.
    """
    with quiet("matplotlib"):  # which tells of a cache that it cannot write
        import matplotlib.figure

    batch = conformal.p_values(calibration, scores)
    n, size = len(calibration), len(batch)
    share = 1 / BINS
    # The share of a bin is a batch's share of it plus the calibration set's error.
    error = np.sqrt(share * (1 - share) * (1 / size + 1 / n)) * BINS * normal_quantile(0.95)
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    histogram, steps = figure.subplots(1, 2)
    band = "95% of the bars without drift"
    histogram.axhspan(max(0, 1 - error), 1 + error, color="0.9", label=band)
    histogram.hist(batch, np.linspace(0, 1, BINS + 1), density=True, color="#3b6fb6", alpha=0.8)
    histogram.axhline(1, color="black", lw=1, label="no drift")
    histogram.legend(frameon=False)
    histogram.set(xlabel="p-value", ylabel="density", xlim=(0, 1), title="small = OOD")
    steps.plot([0, 1], [0, 1], color="black", lw=1, label="no drift")
    steps.ecdf(batch, color="#3b6fb6", label="these images")
    steps.legend(frameon=False)
    steps.set(xlabel="p-value", ylabel="share of images up to it", xlim=(0, 1), ylim=(0, 1))
    steps.set_title(f"distance {found.statistic:.3f}, p = {found.p_value:.2g}")
    figure.suptitle(summary.drift_sentence(found))
    figure.savefig(path, format="png", dpi=120)
