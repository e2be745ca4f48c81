"""The figures of the reports."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import BoundaryNorm
from matplotlib.lines import Line2D

from ecood import metrics
from ecood.score import GRID
from ecood.statistics import perturbed
from ecood.weights import atomic_path
from experiments.report import title

plt.switch_backend("Agg")
ID_COLOUR, OOD_COLOUR, CHOSEN_COLOUR = "#3b6fb6", "#d1603d", "#2f8f5b"
SHOWN = 6  # images of each set
AUROC_STEPS = (0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1)  # of a colour each
ENCODERS = ("compact", "efficientnet-lite0@96", "pixels", "random_features")
LEAST_RATE = 1e-3  # where ROC curves begin
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


def legend_below(figure: Any, columns: int, handles: Sequence[Any] | None = None) -> None:
    """One legend under all panels: of the `handles`, or else of what the first panel names."""
    handles = figure.axes[0].get_legend_handles_labels()[0] if handles is None else handles
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def gap_zone(axes: Any) -> None:
    """Marks, in a panel of likelihood gaps whose limits are set, where the paradox is."""
    low, _ = axes.get_ylim()
    axes.axhline(0, color="grey", lw=0.8)
    axes.axhspan(low, 0, color=OOD_COLOUR, alpha=0.1, lw=0, label="the paradox: Q is likelier")


def overview(
    path: pathlib.Path, result: Mapping, told: Mapping, images: Sequence[np.ndarray], key: jax.Array
) -> None:
    """The paradox, its repair, what the noise does, and how its strength matters.

    `result` is `cifar_vs_svhn`'s; `told` is what each detector tells of ID and OOD `images`.
    """
    figure = plt.figure(figsize=(12, 9.6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1, 0.7, 1])
    (before, after), (noise, curve) = top.subplots(1, 2), bottom.subplots(1, 2)
    auroc = {name: numbers["auroc"] for name, numbers in result["detectors"].items()}
    names = [result["data"][which] for which in ("id", "ood")]
    scales = [256 * part["noise_scale"] for part in told["spem"]]

    def histogram(axes: Any, parts: Sequence[np.ndarray], low: float, high: float) -> None:
        ends = np.quantile(np.concatenate(parts), [low, high])
        bins = np.linspace(ends[0], max(ends[1], ends[0] + 1e-6), 60)  # no noise at lambda 0
        roles = zip(parts, names, ("ID", "OOD"), (ID_COLOUR, OOD_COLOUR), strict=True)
        for part, name, role, colour in roles:
            axes.hist(part, bins, density=True, alpha=0.6, color=colour, label=f"{name} ({role})")
        axes.set(ylabel="density", yticks=[])
        axes.legend(frameon=False, loc="upper right")

    for axes, name, label, what in (
        (
            before,
            "likelihood",
            "bits/dim of the flow (left = likelier)",
            "1  The paradox: likelihood",
        ),
        (after, "spem", "score (right = more OOD)", "2  The repair: SPEM"),
    ):
        histogram(axes, [part["score"] for part in told[name]], 0.001, 0.995)
        axes.set(xlabel=label, title=f"{what}, AUROC {auroc[name]:.3f}")
    _noise(middle, np.concatenate(scales), images, key)
    histogram(noise, scales, 0.0, 0.999)
    noise.set(xlabel="standard deviation of the noise, grey levels of 256")
    noise.set_title("4  The noise of all images: lambda (1 - similarity)")
    strengths, ours, papers = np.transpose(result["curve"])
    curve.semilogx(strengths, ours, "o-", color="black", ms=4, label=title("spem"))
    curve.semilogx(strengths, papers, "o:", color="grey", ms=3, label=title("spem_paper"))
    for name, colour in (("likelihood", OOD_COLOUR), ("similarity", ID_COLOUR)):
        curve.axhline(auroc[name], color=colour, ls="--", label=f"{name} alone")
    for form, strength, colour in (
        ("SPEM", result["noise_strength"], "black"),
        ("the paper's form", result["paper_noise_strength"], "grey"),
    ):
        how = "chosen on ID images" if result["noise_strength_setting"] == "auto" else "given"
        curve.axvline(strength, color=colour, lw=4, alpha=0.25, label=f"{how}, {form}")
    curve.set(title="5  AUROC at other strengths of the noise", **LAMBDA)
    curve.legend(frameon=False, loc="best", fontsize=8)
    save(figure, path)


def _noise(figure: Any, levels: np.ndarray, parts: Sequence[np.ndarray], key: jax.Array) -> None:
    """The least noise on ID images and the most on OOD ones, in grey levels, made visible."""
    images, count = np.concatenate(parts), len(parts[0])
    least = np.argsort(levels[:count], kind="stable")[:SHOWN]
    most = count + np.argsort(-levels[count:], kind="stable")[:SHOWN]
    picks = np.concatenate([least, most])
    chosen, scales = jnp.asarray(images[picks]), jnp.asarray(levels[picks] / 256)
    drawn = jax.jit(perturbed)
    noise = np.asarray(drawn(key, chosen, scales) - drawn(key, chosen, 0 * scales))
    gain = 0.2 / max(float(scales.max()), 1e-6)  # the most noise spans the grey levels
    rows = images[picks] / 255, np.clip(0.5 + gain * noise, 0, 1)
    grid = figure.subplots(2, len(picks), squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        axes.imshow(rows[row][column].squeeze(), cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        if row:
            axes.set_xlabel(f"{levels[picks[column]]:.2g}", fontsize=9)
        for spine in axes.spines.values():
            spine.set(color=ID_COLOUR if picks[column] < count else OOD_COLOUR, lw=2)
    grid[0, 0].set_ylabel("image")
    grid[1, 0].set_ylabel(f"noise\n× {gain:.0f}")
    figure.suptitle(
        "3  What the noise does: the least on ID images (blue), the most on OOD images (red); "
        "below, its standard deviation in grey levels of 256"
    )


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
        text = {"fontsize": 8, "color": "white" if auroc < 0.2 or auroc > 0.98 else "black"}
        axes.text(column, row, f"{auroc:.3f}", ha="center", va="center", **text)
    norm = BoundaryNorm(AUROC_STEPS, 256)
    image = axes.imshow(values, norm=norm, cmap="RdYlBu", aspect="auto")
    axes.set_xticks(range(len(pairs)), [f"{i}\n→ {o}" for i, o in pairs], fontsize=8)
    axes.set_yticks(range(len(detectors)), [title(d) for d in detectors], fontsize=8)
    figure.colorbar(image, label="AUROC (0.5 is chance)", ticks=AUROC_STEPS, spacing="uniform")
    save(figure, path)


def roc_curves(path: pathlib.Path, scores: Mapping[Pair, Mapping[str, Sequence[Any]]]) -> None:
    """True against false positive rate; by pair, detector and seed, the ID and the OOD scores."""

    def draw(axes: Any, pair: Pair) -> None:
        areas = {name: metrics.auroc(*seeds[0]) for name, seeds in scores[pair].items()}
        always = [n for n in ("spem", "spem_paper", "likelihood", "similarity") if n in areas]
        others = sorted((n for n in areas if n not in always), key=areas.get, reverse=True)
        lowest = 1.0
        for name in (always + others)[:CURVES]:
            false, true = metrics.roc(*scores[pair][name][0])
            width, label = 2 if name == "spem" else 1.2, f"{title(name)} {areas[name]:.3f}"
            # On a line of rates the curves of easy pairs are all one corner.
            axes.semilogx(np.maximum(false, LEAST_RATE), true, lw=width, label=label)
            lowest = min(lowest, true[false <= LEAST_RATE].max())
        chance = np.geomspace(LEAST_RATE, 1)
        axes.plot(chance, chance, color="grey", lw=0.6, ls=":", label="chance")
        axes.set(xlabel="ID called OOD (logarithmic)", ylabel="OOD called OOD")
        axes.set(xlim=(LEAST_RATE, 1), ylim=_up_to_one(lowest))
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
        axes.legend(frameon=False, fontsize=7, **below)

    save(_of_pairs(scores, draw, 4.2, 4.6), path)


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
            look = {"ms": 8, "mfc": "none", "color": CHOSEN_COLOUR, "ls": "none"}
            label = None if form == "spem" else "chosen on ID images alone"
            axes.plot(GRID[at], curve[at], "D", label=label, **look)
        lowest = min(min(curves[form, *pair]) for form in ("spem", "spem_paper"))
        axes.set(**LAMBDA | {"ylim": _up_to_one(lowest)})

    figure = _of_pairs(dict.fromkeys((i, o) for _, i, o in curves), draw)
    legend_below(figure, 3)
    save(figure, path)


def bank_sizes(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """AUROC over the size of the memory bank; rows as `experiments.encoder_study` measures them."""
    names = dict.fromkeys(row["encoder"] for row in rows)
    # The same encoder has the same colour in every figure.
    order = [*ENCODERS, *(name for name in names if name not in ENCODERS)]
    colours = {name: f"C{order.index(name)}" for name in names}

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
    _save_named(figure, path, lines)


def densities(
    path: pathlib.Path, trained: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> None:
    """AUROC over held-out bits/dim, a point a density; rows as `experiments.densities` has them."""
    bits = {(row["id"], row["density"]): row["held_out"] for row in trained}  # the last budget's
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(d for _, d in bits))}
    marks = {"likelihood": "v", "spem": "o"}

    def draw(axes: Any, pair: Pair) -> None:
        for row in (row for row in rows if (row["id"], row["ood"]) == pair):
            at, colour = bits[row["id"], row["density"]], colours[row["density"]]
            for score, mark in marks.items():
                low, high = row[score]["auroc_ci"]
                axes.plot([at, at], [low, high], color=colour, lw=1)
                axes.plot(at, row[score]["auroc"], mark, ms=6, color=colour)
        axes.axhline(0.5, color="grey", lw=0.6, ls=":")
        axes.set(xlabel="held-out bits/dim", ylabel="AUROC", ylim=(-0.02, 1.02))

    figure = _of_pairs(dict.fromkeys((row["id"], row["ood"]) for row in rows), draw)
    looks = {name: (colour, "s") for name, colour in colours.items()}
    looks |= {title(score): ("k", mark) for score, mark in marks.items()}
    points = [Line2D([], [], color=c, marker=m, ls="", label=n) for n, (c, m) in looks.items()]
    _save_named(figure, path, points)


def _save_named(figure: Any, path: pathlib.Path, handles: Sequence[Any]) -> None:
    """With the handles' legend below, two a panel that is beside another."""
    legend_below(figure, min(len(handles), 2 * min(3, len(figure.axes))), handles)
    save(figure, path)


def _up_to_one(lowest: float) -> tuple[float, float]:
    """The limits of an axis of rates of which the lowest that is drawn is this."""
    margin = 0.05 * (1 - lowest) + 0.003
    return lowest - margin, 1 + margin


def _of_pairs(pairs: Any, draw: Callable[[Any, Pair], None], *size: float) -> Any:
    """A panel a pair of data sets, with its title."""
    figure, grid = panels(len(pairs), *size)
    for axes, pair in zip(grid, pairs, strict=True):
        draw(axes, pair)
        axes.set_title(f"{pair[0]} → {pair[1]}")
    return figure


def growth(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Seconds against size, a panel a row of `experiments.scaling`, with the slope."""
    figure, axes = plt.subplots(1, len(rows), figsize=(3.3 * len(rows), 3.2), layout="constrained")
    for panel, row in zip(axes, rows, strict=True):
        panel.loglog(row["sizes"], row["seconds"], marker="o", color=ID_COLOUR)
        panel.set(xlabel=row["what"], title=f"slope {row['slope']:.2f}")
        panel.set_xticks(row["sizes"], [f"{size:,}" for size in row["sizes"]])
        panel.minorticks_off()
        panel.tick_params(axis="x", labelsize=7)
        panel.grid(True, which="major", lw=0.4)
    axes[0].set_ylabel("seconds")
    save(figure, path)
