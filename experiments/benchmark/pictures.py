"""The benchmark's figures: the heat map of AUROC, ROC curves, AUROC over lambda and bank size."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from ecood import metrics
from experiments import figures
from experiments.benchmark import curves, tables
from experiments.figures import plt

__all__ = ["bank_sizes", "heat_map", "roc_curves", "strength_curves"]

CURVES = 6  # detectors a panel: SPEM, its parts, and the best others


def heat_map(path: pathlib.Path, table: Sequence[Mapping[str, Any]]) -> None:
    """AUROC of every detector on every pair."""
    summary = tables.summarise(table)
    pairs = list(dict.fromkeys((i, o) for i, o, _ in summary))
    detectors = list(dict.fromkeys(d for _, _, d in summary))
    values = np.array(
        [[summary.get((*p, d), {"auroc": np.nan})["auroc"] for p in pairs] for d in detectors]
    )
    size = (1.6 + 1.25 * len(pairs) + 1.5, 1.2 + 0.32 * len(detectors))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    image = axes.imshow(values, vmin=0, vmax=1, cmap="RdYlBu", aspect="auto")
    axes.set_xticks(range(len(pairs)), [f"{i}\n→ {o}" for i, o in pairs], fontsize=8)
    axes.set_yticks(range(len(detectors)), [tables.title(d) for d in detectors], fontsize=8)
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        dark = abs(value - 0.5) > 0.35
        axes.text(
            column, row, f"{value:.3f}", ha="center", va="center", fontsize=8,
            color="white" if dark else "black",
        )  # fmt: skip
    figure.colorbar(image, label="AUROC (0.5 is chance)")
    figures.save(figure, path)


def roc_curves(
    path: pathlib.Path, scores: Mapping[tables.Pair, Mapping[str, Sequence[tables.Scores]]]
) -> None:
    """True against false positive rate, one panel a pair, seed 0."""
    figure, grid = figures.panels(len(scores), 4.2, 4.0)
    for axes, (pair, detectors) in zip(grid, scores.items(), strict=True):
        areas = {name: metrics.auroc(*seeds[0]) for name, seeds in detectors.items()}
        always = [n for n in ("spem", "spem_paper", "likelihood", "similarity") if n in areas]
        others = sorted(set(areas) - set(always), key=areas.get, reverse=True)
        for name in (always + others)[:CURVES]:
            false, true = _curve(*detectors[name][0])
            axes.plot(
                false, true, lw=2 if name == "spem" else 1.2,
                label=f"{tables.title(name)} {areas[name]:.3f}",
            )  # fmt: skip
        axes.plot([0, 1], [0, 1], color="grey", lw=0.6, ls=":")
        axes.set(
            title=f"{pair[0]} → {pair[1]}", xlabel="ID called OOD", ylabel="OOD called OOD",
            xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal",
        )  # fmt: skip
        axes.legend(frameon=False, fontsize=7, loc="lower right")
    figures.save(figure, path)


def strength_curves(
    path: pathlib.Path,
    found: Mapping[tuple[str, str, str], Sequence[float]],
    chosen: Mapping[tuple[str, str], float],
) -> None:
    """AUROC over lambda, one panel a pair, each form a line, its chosen strength marked.

    Args:
      path: the picture.
      found: by (form, ID, OOD): AUROC at each strength of `curves.GRID`.
      chosen: by (form, ID): the strength chosen on ID images alone, one of the grid.
    """
    pairs = list(dict.fromkeys((i, o) for _, i, o in found))
    figure, grid = figures.panels(len(pairs))
    for axes, (name, ood) in zip(grid, pairs, strict=True):
        for form, colour in zip(curves.FORMS, ("black", "grey"), strict=True):
            curve = found[form, name, ood]
            axes.semilogx(curves.GRID, curve, "o-", ms=3, color=colour, label=tables.title(form))
            index = int(np.argmin(np.abs(np.log(np.array(curves.GRID) / chosen[form, name]))))
            axes.plot(
                curves.GRID[index], curve[index], "D", ms=8, mfc="none",
                color=figures.CHOSEN_COLOUR,
            )  # fmt: skip
        axes.set(
            title=f"{name} → {ood}", xlabel="noise strength lambda", ylabel="AUROC",
            ylim=(-0.02, 1.02),
        )  # fmt: skip
    grid[0].legend(frameon=False)
    figures.save(figure, path)


def bank_sizes(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """AUROC over the size of the memory bank, one panel a pair, each encoder a colour.

    Args:
      path: the picture.
      rows: what `experiments.encoder_study` measures.
    """
    pairs = list(dict.fromkeys((row["id"], row["ood"]) for row in rows))
    figure, grid = figures.panels(len(pairs))
    colours: dict[str, str] = {}
    for axes, pair in zip(grid, pairs, strict=True):
        of_pair = [row for row in rows if (row["id"], row["ood"]) == pair]
        for encoder in dict.fromkeys(row["encoder"] for row in of_pair):
            colour = colours.setdefault(encoder, f"C{len(colours)}")
            of_encoder = [row for row in of_pair if row["encoder"] == encoder]
            for score, style in (("spem", "o-"), ("similarity", "o:")):
                axes.semilogx(
                    [row["bank"] for row in of_encoder],
                    [row[score]["auroc"] for row in of_encoder],
                    style, ms=3, color=colour,
                )  # fmt: skip
        axes.set(title=f"{pair[0]} → {pair[1]}", xlabel="images in the bank", ylabel="AUROC")
    lines = [Line2D([], [], color=colour, label=encoder) for encoder, colour in colours.items()]
    for label, style in (("SPEM", "-"), ("similarity alone", ":")):
        lines.append(Line2D([], [], color="k", ls=style, label=label))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    figures.save(figure, path)


def _curve(id_scores: np.ndarray, ood_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    thresholds = np.unique(np.concatenate([id_scores, ood_scores]))
    above = [
        np.concatenate([1 - np.searchsorted(np.sort(s), thresholds) / len(s), [0.0]])
        for s in (id_scores, ood_scores)
    ]
    return above[0][::-1], above[1][::-1]
