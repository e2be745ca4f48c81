"""Section (c): the shipped flows on real pairs of image sets."""

import argparse
import math
import pathlib
from typing import Any

import jax
import numpy as np
import tqdm

from ecood import metrics, score
from ecood.evaluation import sets
from ecood.evaluation.gap import Curve, Seen, over_lambda, see
from ecood.theory import code, gap
from ecood.theory.crossing import turns_positive
from experiments import figures
from experiments.figures import CHOSEN_COLOUR, ID_COLOUR, OOD_COLOUR

STRENGTHS = np.concatenate([[0.0], np.geomspace(0.003, 10.0, 15)])
IMAGES = 500  # of each test set

TEXT = """The flows of the shipped scorers, {images} test images of each set, noise lambda (1 - s).
Black: measured. Orange: log p(x + sigma z) to second order in sigma, the curvature measured by
noise of one grey level. Dashed: certified if H(Q) is as a lossless code estimates it, from above.
Dotted: proved, for pixels of 256 levels (docs/theory.md, section 8). Measured gaps and AUROCs take
what lies beyond 8 bits/dim by its logarithm, as the detectors do; the certificates take it as it
is. A line ends where a density overflows."""

CAPTION = """Gap in nats a dimension. "Turns positive" and the three columns after it give the
smallest lambda from which on it is positive: measured, to second order, by the two certificates.
"Noise ratio" is the mean noise scale on P over that on Q: below 1 the similarity aims the noise at
Q. H(P) and H(Q) are code lengths, estimates from above."""

MISMATCH = """What needs no noise: b - L, what the flow pays beyond a universal code in bits/dim,
mean and standard error. Its mean is at most KL(Q || p) / (D ln 2), so "KL at least" (95%, one side)
proves that the density is not the images' law (docs/theory.md, 1.6). The AUROC is that of b - L."""


def run(key: jax.Array, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures every pair at hand that a scorer is shipped for, draws the figure."""
    limit, curves, rows, excess = 64 if arguments.quick else IMAGES, {}, [], []
    source = arguments.data, arguments.imagenet32
    with jax.enable_x64(False):
        known, missing = sets.load_all(*source, score.shipped(), limit, ood=arguments.ood)
        total = sum(len(id_set.tests) for id_set in known)
        bar = tqdm.tqdm(None, "sets of images", total, leave=False, disable=None)
        for id_set in known:
            name, state, seen = id_set.name, id_set.scorer.state, {}
            for which, x in id_set.tests.items():
                seen[which] = see(key, state, x, STRENGTHS)
                bar.update()
            dim = math.prod(id_set.scorer.image_shape)
            for ood in id_set.oods:
                pair = seen[name], seen[ood]
                curve, columns = measure(*pair, dim)
                curves[f"{name} → {ood}"] = curve
                rows.append({"ID": name, "OOD": ood, **columns})
                columns = mismatch(*((each.bits[0], each.code_length) for each in pair))
                excess.append({"ID": name, "OOD": ood, **columns})
        bar.close()
    figure(arguments.out / "images.png", curves)
    tables = [{"caption": CAPTION, "rows": rows}, {"caption": MISMATCH, "rows": excess}]
    if missing:
        rows = [dict(zip(("ID", "OOD", "why"), each.values(), strict=True)) for each in missing]
        tables.append({"caption": "Pairs whose images are not at hand.", "rows": rows})
    notes = [note for id_set in known for note in id_set.notes]
    return {
        "title": "(c) Real images",
        "text": " ".join([TEXT.format(images=limit), *notes]),
        "figure": "images.png",
        "tables": tables,
    }


def measure(p: Seen, q: Seen, dim: int) -> tuple[Curve, dict[str, Any]]:
    """The gap between ID images and others and its certificates; columns of the table."""
    curve = over_lambda(p, q, dim)
    clean = -p.surprise[0].mean(), -q.surprise[0].mean()
    terms = gap.decompose(*clean, p.entropy / dim, q.entropy / dim)
    best = int(np.argmax(curve.auroc))
    return curve, {
        "gap before": (float(curve.measured[0]), float(curve.error[0])),
        "H(Q) - H(P)": float(terms.entropy_ood - terms.entropy_id),
        "KL(Q,p) - KL(P,p)": float(terms.kl_ood - terms.kl_id),
        "noise ratio": float(np.mean(1 - p.similarity) / np.mean(1 - q.similarity)),
        "turns positive": turns_positive(STRENGTHS, curve.measured),
        "second order": turns_positive(STRENGTHS, curve.expansion),
        "certain if H(Q) is as estimated": turns_positive(STRENGTHS, curve.estimated),
        "proved": turns_positive(STRENGTHS, curve.known),
        "best AUROC": float(curve.auroc[best]),
        "at lambda": float(STRENGTHS[best]),
    }


def mismatch(
    ours: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """What b and L, bits/dim, tell of ID images and of others: columns of the table."""
    columns, excess = {}, []
    for letter, (bits, lengths) in (("P", ours), ("Q", others)):
        excess.append(np.float64(bits) - lengths)
        proof = code.certify_mismatch(bits, lengths)
        error = float(np.std(excess[-1], ddof=1) / np.sqrt(len(bits)))
        columns[f"b - L on {letter}"] = (proof.excess, error)
        columns[f"KL({letter},p) at least"] = max(proof.bound, 0.0)
    return columns | {"AUROC": metrics.auroc(*excess)}


def figure(path: pathlib.Path, curves: dict[str, Curve]) -> None:
    """One panel a pair: measured gap, prediction and proof over lambda."""
    drawing, grid = figures.panels(len(curves), 4.6, 3.8)
    strengths = STRENGTHS[1:]
    for axes, (title, curve) in zip(grid, curves.items(), strict=True):
        for values, label, colour, style in (
            (curve.measured, "measured", "black", {"marker": "o", "ms": 3}),
            (curve.estimated, "certain if H(Q) is as estimated", CHOSEN_COLOUR, {"ls": "--"}),
            (curve.expansion, "second order", OOD_COLOUR, {"lw": 1}),
            (curve.known, "proved", ID_COLOUR, {"ls": ":"}),
        ):
            axes.semilogx(strengths, values[1:], color=colour, label=label, **style)
            if where := turns_positive(STRENGTHS, values):
                axes.plot(where, 0, "D", ms=8, mfc="none", color=colour)
        low, high = (curve.measured + side * curve.error for side in (-2, 2))
        error = {"color": "black", "alpha": 0.15, "label": "measured, 2 s.e. around it"}
        axes.fill_between(strengths, low[1:], high[1:], **error)
        turn = {"ms": 8, "mfc": "none", "color": "grey", "ls": "none"}
        axes.plot([], [], "D", label="from here on positive (the line's colour)", **turn)
        axes.set(title=title, xlabel=figures.LAMBDA["xlabel"], ylabel="gap, nats/dim")
        axes.set_ylim(-3, 4)
        figures.gap_zone(axes)
    figures.legend_below(drawing, 4)
    figures.save(drawing, path)
