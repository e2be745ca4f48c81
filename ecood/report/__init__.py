"""One HTML file that shows which images are not like the others, why, and where in the image.

The page needs nothing but itself: pictures, style and script are inside, and its content security
policy forbids requests. Names of files are data: the template escapes them, and the script writes
text, never markup.
"""

import base64
import datetime
import hashlib
import importlib.resources
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import ecood
from ecood import conformal
from ecood.data.arrays import SUFFIXES as ARRAYS
from ecood.data.stream import counted
from ecood.data.unused import Unused
from ecood.errors import readable
from ecood.report import charts, pictures
from ecood.report.collected import Collected, Row
from ecood.score import Program, Scorer
from ecood.score.explain import TERMS, Explanation
from ecood.score.thumbnails import png
from ecood.templates import environment
from ecood.words import number_of, short

__all__ = ["Collected", "Level", "levels", "page"]

NEIGHBOURS = 3
FPRS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
PICTURES = 8_000_000  # characters of pictures on a page; once it has these, no more are shown


class Level(NamedTuple):
    """A false-positive rate that the calibration images allow, and what it flags."""

    fpr: float
    threshold: float
    flagged: int
    expected: float  # flagged by chance, if all images were in-distribution
    low: float  # the rate may lie from here
    high: float  # to here, by the luck of the calibration images


class Card(NamedTuple):
    """An image that is shown: data URIs and words."""

    row: dict[str, Any]
    image: str
    bits: str | None
    difference: str | None
    code: str
    neighbours: list[tuple[int, float, str | None]]
    terms: list[tuple[str, float]]
    sentence: str


def levels(scorer: Scorer | Program, scores: np.ndarray, fpr: float = 0.05) -> list[Level]:
    """The false-positive rates to choose from, `fpr` among them, and how many scores each flags."""
    n = len(scorer.calibration)
    found = []
    for rate in sorted({*FPRS, fpr}):
        threshold = scorer.threshold(rate)
        if np.isfinite(threshold):
            flagged = int(np.sum(scores > threshold))
            expected = conformal.expected_fpr(n, rate) * len(scores)
            spread = conformal.realised_fpr(n, rate)
            found.append(Level(rate, short(threshold), flagged, expected, *spread))
    return found


def page(
    scorer: Scorer | Program,
    collected: Collected,
    unused: Unused,
    about: dict[str, str],
    *,
    fpr: float = 0.05,
    embeddings: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> str:
    """The HTML.

    Args:
      scorer: calibrated.
      collected: at least one image that it scored.
      unused: images that could not be used, and what of folders was not taken.
      about: what to tell of the run beside what the scorer tells, by name.
      fpr: the false-positive rate that the page starts at; the nearest that it offers if the
        calibration images are too few for it.
      embeddings: float [n, d] of `collected.images`, for a scorer whose encoder is elsewhere.
      progress: called with the number of images explained since its last call.
    """
    scores = collected.scores
    shown = collected.images
    options = {} if embeddings is None else {"embeddings": embeddings}
    explanation = scorer.explain(
        shown, neighbours=_neighbours(scorer), progress=progress, **options
    )
    paths = [row.path for row in collected.rows]
    common = _common_folder(paths)
    p_values = conformal.p_values(
        scorer.calibration, np.stack([row.detection.score for row in collected.rows])
    )
    rows = [
        _row(row, p_value, row.path[len(common) :])
        for row, p_value in zip(collected.rows, p_values, strict=True)
    ]
    new = scores[~collected.known]
    rates = levels(scorer, new, fpr)
    plotted, half = new if len(new) else scores, len(new) // 2
    script = _text("page.js")
    return environment(__package__, autoescape=True).get_template("page.html").render(
        style=_text("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        count=len(scores),
        rows=rows,
        cards=_cards(scorer, rows, shown, explanation),
        levels=rates,
        start=min(range(len(rates)), key=lambda i: abs(rates[i].fpr - fpr)),
        new=len(new),
        plotted=len(plotted),
        histogram=charts.histogram(plotted, scorer.calibration),
        time_line=charts.time_line(plotted, scorer.calibration),
        charts=charts,
        drift=conformal.drift(scorer.calibration, new) if len(new) else None,
        order=conformal.drift(new[:half], new[half:]) if half else None,
        drift_level=conformal.DRIFT_LEVEL,
        problems=list(map(readable, unused.problems)),
        others=readable(counted(unused.not_taken)),
        lost=unused.count,
        common=readable(common),
        has_map=explanation.bits_map is not None,
        has_bank=_neighbours(scorer) > 0,
        has_thumbnails=_thumbnails(scorer) is not None,
        calibrated_on=len(scorer.calibration),
        term_words={name: TERMS[name] for name in explanation.terms},
        settings={k: readable(v) for k, v in (about | _settings(scorer)).items()},
        pictures=pictures,
    )  # fmt: skip


def _row(row: Row, p_value: float, name: str) -> dict[str, Any]:
    name = readable(name)
    found = {key: short(value) for key, value in row.detection._asdict().items()}
    return {
        "name": f"{name} [{row.index}]" if row.path.lower().endswith(ARRAYS) else name,
        "order": row.order,
        "known": row.known,
        "p_value": None if row.known else short(p_value),
    } | found


def _cards(
    scorer: Scorer | Program,
    rows: list[dict[str, Any]],
    images: np.ndarray,
    explanation: Explanation,
) -> list[Card]:
    thumbnails, sentences = _thumbnails(scorer), explanation.sentences()
    cards, size = [], 0
    for i, image in enumerate(images):
        code = explanation.code_map[i]
        bits = None if explanation.bits_map is None else explanation.bits_map[i]
        nearest = [
            (int(row), float(similarity), thumbnails and pictures.data_uri(thumbnails[row]))
            for row, similarity in zip(
                explanation.neighbours[i], explanation.neighbour_similarity[i], strict=True
            )
        ]
        card = Card(
            row=rows[i],
            image=pictures.data_uri(png(image)),
            bits=None if bits is None else pictures.bits_picture(bits),
            difference=None if bits is None else pictures.difference_picture(bits - code),
            code=pictures.bits_picture(code),
            neighbours=nearest,
            terms=[(name, float(values[i])) for name, values in explanation.terms.items()],
            sentence=sentences[i],
        )
        parts = [card.image, card.bits, card.difference, card.code, *(n[2] for n in nearest)]
        size += sum(len(part) for part in parts if part is not None)
        if cards and size > PICTURES:
            break
        cards.append(card)
    return cards


def _neighbours(scorer: Scorer | Program) -> int:
    """How many of the nearest images to name; an exported program names none."""
    if isinstance(scorer, Program):
        return 0
    return min(NEIGHBOURS, len(jax.tree.leaves(scorer.state.bank)[0]))


def _thumbnails(scorer: Scorer | Program) -> Any:
    """The scorer's, if they are of the rows of its bank: a compressed one has others."""
    kept = None if isinstance(scorer, Program) else scorer.thumbnails
    return kept if kept and len(kept) == len(jax.tree.leaves(scorer.state.bank)[0]) else None


def _common_folder(paths: list[str]) -> str:
    """What all paths begin with, up to a slash."""
    common = os.path.commonprefix(paths)
    return common[: common.rfind("/") + 1]


def _settings(scorer: Scorer | Program) -> dict[str, str]:
    height, width, channels = scorer.image_shape
    parts = (
        {"exported by": f"ecood {scorer.about['ecood']}, jax {scorer.about['jax']}"}
        if isinstance(scorer, Program)
        else _parts(scorer)
    )
    return {
        "images": f"{height} × {width} pixels, {number_of(channels, 'channel')}",
        **parts,
        "calibration": number_of(len(scorer.calibration), "image"),
        "versions": f"ecood {ecood.__version__}, jax {jax.__version__}",
        "device": jax.devices()[0].device_kind,
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _parts(scorer: Scorer) -> dict[str, str]:
    state = scorer.state
    kind, sizes = scorer.flow.described
    attributes = [f"{name} {value}" for name, value in sizes.items() if name != "image_shape"]
    bank = jax.tree.leaves(state.bank)[0]
    width = bank.shape[1]
    return {
        "score": f"the form “{state.form.name}”",
        "flow": ", ".join([kind, *attributes]),
        "encoder": scorer.encoder.name,
        "memory bank": f"{number_of(len(bank), 'image')}, {number_of(width, 'number')} each",
        "noise strength": f"{float(state.noise_strength):.4g}, seed {scorer.seed}",
    }


def _text(name: str) -> str:
    return (importlib.resources.files(__package__) / name).read_text("utf-8")
