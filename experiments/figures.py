"""The figures of the reports."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from ecood import metrics
from ecood.score import GRID
from ecood.statistics import perturbed
from ecood.weights import atomic_path
from experiments.report import title

plt.switch_backend("Agg")
ID_COLOUR, OOD_COLOUR, CHOSEN_COLOUR = "#3b6fb6", "#d1603d", "#2f8f5b"
SHOWN = 8  # images a row
CURVES = 6  # detectors a panel: SPEM, its parts, and the best others
LAMBDA = {"xlabel": "noise strength lambda", "ylabel": "AUROC", "ylim": (-0.02, 1.02)}
Pair = tuple[str, str]


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a figure as PNG, atomically, and closes it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    plt.close(figure)


def panels(count: int, width: float = 4.4, height: float = 3.4) -> tuple[Any, np.ndarray]:
    """A figure of `count` panels, three a row, and its axes; width and height of one in inches."""
    columns = min(3, count)
    rows = -(-count // columns)
    look = {"figsize": (width * columns, height * rows), "layout": "constrained"}
    figure, grid = plt.subplots(rows, columns, squeeze=False, **look)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, grid.flat[:count]


def overview(
    path: pathlib.Path, result: Mapping, told: Mapping, images: Sequence[np.ndarray], key: jax.Array
) -> None:
    """The paradox, its repair, the curve over lambda, and what the perturbation does to images.

    `result` is `cifar_vs_svhn`'s; `told` is what each detector tells of ID and OOD `images`.
    """
    figure = plt.figure(figsize=(12, 9.5), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1, 1, 1.15])
    (before, after), (noise, curve) = top.subplots(1, 2), middle.subplots(1, 2)
    auroc = {name: numbers["auroc"] for name, numbers in result["detectors"].items()}
    scales = [part["noise_scale"] for part in told["spem"]]

    def histogram(axes: Any, parts: Sequence[np.ndarray], low: float, high: float) -> None:
        ends = np.quantile(np.concatenate(parts), [low, high])
        bins = np.linspace(ends[0], max(ends[1], ends[0] + 1e-6), 60)  # no noise at lambda 0
        for part, which, colour in zip(parts, ("id", "ood"), (ID_COLOUR, OOD_COLOUR), strict=True):
            label = f"{result['data'][which]} ({which.upper()})"
            axes.hist(part, bins, density=True, alpha=0.6, color=colour, label=label)
        axes.set_ylabel("density")
        axes.legend(frameon=False, loc="upper right")

    for axes, name, label, what in (
        (before, "likelihood", "bits/dim", "likelihood alone"),
        (after, "spem", "score", "after entropy control (SPEM)"),
    ):
        histogram(axes, [part["score"] for part in told[name]], 0.001, 0.995)
        axes.set(xlabel=label, title=f"{what}: AUROC {auroc[name]:.3f}")
    histogram(noise, scales, 0.0, 0.999)
    noise.set_xlabel("noise scale sigma (1 = black to white)")
    noise.set_title("sigma = lambda (1 - similarity)")
    strengths, ours, papers = np.transpose(result["curve"])
    curve.semilogx(strengths, ours, "o-", color="black", ms=4, label=title("spem"))
    curve.semilogx(strengths, papers, "o:", color="grey", ms=3, label=title("spem_paper"))
    for name, colour in (("likelihood", OOD_COLOUR), ("similarity", ID_COLOUR)):
        curve.axhline(auroc[name], color=colour, ls="--", label=f"{name} alone")
    curve.axvline(result["noise_strength"], color=CHOSEN_COLOUR, label="chosen on ID images alone")
    curve.set(title="the noise strength (paper's form: likelihood to similarity)", **LAMBDA)
    curve.legend(frameon=False, loc="lower right")
    _images(bottom, np.concatenate(scales), images, key)
    save(figure, path)


def _images(figure: Any, scales: np.ndarray, parts: Sequence[np.ndarray], key: jax.Array) -> None:
    images, count = np.concatenate(parts), len(parts[0])
    order = np.argsort(scales)
    picks = np.concatenate([order[:SHOWN], order[-SHOWN:][::-1]])
    noisy = perturbed(key, jnp.asarray(images[picks]), jnp.asarray(scales[picks]))
    rows = images[picks] / 255, np.clip(np.asarray(noisy), 0, 1)
    grid = figure.subplots(2, 2 * SHOWN)
    for (row, column), axes in np.ndenumerate(grid):
        axes.imshow(rows[row][column].squeeze(), cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[], title="" if row else f"{scales[picks[column]]:.2g}")
        axes.title.set_fontsize(8)
        for spine in axes.spines.values():
            spine.set(color=ID_COLOUR if picks[column] < count else OOD_COLOUR, lw=2)
    grid[0, 0].set_ylabel("before")
    grid[1, 0].set_ylabel("after")
    what = f"the {SHOWN} smallest and the {SHOWN} largest noise scales (frame: blue ID, red OOD)"
    figure.suptitle(what, fontsize=10)


def heat_map(path: pathlib.Path, summary: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> None:
    """AUROC of every detector on every pair; by (ID, OOD, detector)."""
    pairs = list(dict.fromkeys((i, o) for i, o, _ in summary))
    detectors = list(dict.fromkeys(d for _, _, d in summary))
    size = 3.1 + 1.25 * len(pairs), 1.2 + 0.32 * len(detectors)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    values = np.full((len(detectors), len(pairs)), np.nan)
    for (i, o, d), numbers in summary.items():
        row, column, auroc = detectors.index(d), pairs.index((i, o)), numbers["auroc"]
        values[row, column] = auroc
        text = {"fontsize": 8, "color": "white" if abs(auroc - 0.5) > 0.35 else "black"}
        axes.text(column, row, f"{auroc:.3f}", ha="center", va="center", **text)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="RdYlBu", aspect="auto")
    axes.set_xticks(range(len(pairs)), [f"{i}\n→ {o}" for i, o in pairs], fontsize=8)
    axes.set_yticks(range(len(detectors)), [title(d) for d in detectors], fontsize=8)
    figure.colorbar(image, label="AUROC (0.5 is chance)")
    save(figure, path)


def roc_curves(path: pathlib.Path, scores: Mapping[Pair, Mapping[str, Sequence[Any]]]) -> None:
    """True against false positive rate; by pair, detector and seed, the ID and the OOD scores."""

    def draw(axes: Any, pair: Pair) -> None:
        areas = {name: metrics.auroc(*seeds[0]) for name, seeds in scores[pair].items()}
        always = [n for n in ("spem", "spem_paper", "likelihood", "similarity") if n in areas]
        others = sorted(set(areas) - set(always), key=areas.get, reverse=True)
        for name in (always + others)[:CURVES]:
            parts = scores[pair][name][0]
            at = np.unique(np.concatenate(parts))[::-1]
            above = [1 - np.searchsorted(np.sort(s), at) / len(s) for s in parts]
            false, true = (np.concatenate([[0.0], rates]) for rates in above)
            width, label = 2 if name == "spem" else 1.2, f"{title(name)} {areas[name]:.3f}"
            axes.plot(false, true, lw=width, label=label)
        axes.plot([0, 1], [0, 1], color="grey", lw=0.6, ls=":")
        axes.set(xlabel="ID called OOD", ylabel="OOD called OOD", aspect="equal")
        axes.legend(frameon=False, fontsize=7, loc="lower right")

    save(_of_pairs(scores, draw, 4.2, 4.0), path)


def strength_curves(
    path: pathlib.Path,
    curves: Mapping[tuple[str, str, str], Sequence[float]],
    chosen: Mapping[str, Mapping[str, float]],
) -> None:
    """AUROC along `GRID` by (form, ID, OOD), a line a form; what ID images chose is marked."""

    def draw(axes: Any, pair: Pair) -> None:
        for form, colour in (("spem", "black"), ("spem_paper", "grey")):
            curve, strength = curves[form, *pair], chosen[pair[0]][form]
            axes.semilogx(GRID, curve, "o-", ms=3, color=colour, label=title(form))
            at = int(np.argmin(np.abs(np.array(GRID) - strength)))
            axes.plot(GRID[at], curve[at], "D", ms=8, mfc="none", color=CHOSEN_COLOUR)
        axes.set(**LAMBDA)

    figure = _of_pairs(dict.fromkeys((i, o) for _, i, o in curves), draw)
    figure.axes[0].legend(frameon=False)
    save(figure, path)


def bank_sizes(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """AUROC over the size of the memory bank; rows as `experiments.encoder_study` measures them."""
    names = dict.fromkeys(row["encoder"] for row in rows)
    colours = {name: f"C{index}" for index, name in enumerate(names)}

    def draw(axes: Any, pair: Pair) -> None:
        for encoder, colour in colours.items():
            of = [r for r in rows if (r["id"], r["ood"], r["encoder"]) == (*pair, encoder)]
            for score, style in (("spem", "o-"), ("similarity", "o:")):
                values = [row[score]["auroc"] for row in of]
                axes.semilogx([row["bank"] for row in of], values, style, ms=3, color=colour)
        axes.set(xlabel="images in the bank", ylabel="AUROC")

    figure = _of_pairs(dict.fromkeys((row["id"], row["ood"]) for row in rows), draw)
    looks = {name: (colour, "-") for name, colour in colours.items()}
    looks |= {"SPEM": ("k", "-"), "similarity alone": ("k", ":")}
    lines = [Line2D([], [], color=c, ls=style, label=name) for name, (c, style) in looks.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    save(figure, path)


def _of_pairs(pairs: Any, draw: Callable[[Any, Pair], None], *size: float) -> Any:
    """A panel a pair of data sets, with its title."""
    figure, grid = panels(len(pairs), *size)
    for axes, pair in zip(grid, pairs, strict=True):
        draw(axes, pair)
        axes.set_title(f"{pair[0]} → {pair[1]}")
    return figure
