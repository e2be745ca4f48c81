"""The figures of the reports."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from ecood.data import ImagePair
from ecood.score import Detection, Scorer, perturbed_images
from ecood.weights import atomic_path

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

__all__ = ["overview", "panels", "save"]

ID_COLOUR, OOD_COLOUR, CHOSEN_COLOUR = "#3b6fb6", "#d1603d", "#2f8f5b"
SHOWN = 8  # images a row


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a figure as PNG, atomically, and closes it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    plt.close(figure)


def panels(count: int, width: float = 4.4, height: float = 3.4) -> tuple[Any, np.ndarray]:
    """A figure of `count` panels, three a row, and its axes; width and height of one in inches."""
    columns = min(3, count)
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, grid.flat[:count]


def overview(
    path: pathlib.Path,
    result: dict[str, Any],
    scores: dict[str, Any],
    detections: dict[str, Detection],
    pair: ImagePair,
    scorer: Scorer,
) -> None:
    """The paradox, its repair, the curve over lambda, and what the perturbation does to images.

    Args:
      path: the PNG to write.
      result: the report's numbers.
      scores: by detector, with rows of seeds `id` and `ood`.
      detections: SPEM's detections of the "id" and "ood" test images, for seed 0.
      pair: the images.
      scorer: what scored them.
    """
    figure = plt.figure(figsize=(12, 9.5), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1, 1, 1.15])
    before, after = top.subplots(1, 2)
    names = result["data"]["id"], result["data"]["ood"]
    detectors = result["detectors"]
    _histogram(before, scores["likelihood"], names, "bits/dim")
    before.set_title(f"likelihood alone: AUROC {detectors['likelihood']['auroc']:.3f}")
    _histogram(after, scores["spem"], names, "score")
    after.set_title(f"after entropy control (SPEM): AUROC {detectors['spem']['auroc']:.3f}")
    scale, curve = middle.subplots(1, 2)
    _noise_scales(scale, detections, names)
    _curve(curve, result)
    _images(bottom, detections, pair, scorer)
    save(figure, path)


def _histogram(axes: Any, scores: Any, names: tuple[str, str], label: str) -> None:
    id_scores, ood_scores = scores.id[0], scores.ood[0]
    both = np.concatenate([id_scores, ood_scores])
    bins = np.linspace(*np.quantile(both, [0.001, 0.995]), 60)
    axes.hist(id_scores, bins, density=True, alpha=0.6, color=ID_COLOUR, label=f"{names[0]} (ID)")
    axes.hist(
        ood_scores, bins, density=True, alpha=0.6, color=OOD_COLOUR, label=f"{names[1]} (OOD)"
    )
    axes.set(xlabel=label, ylabel="density")
    axes.legend(frameon=False, loc="upper right")


def _noise_scales(axes: Any, detections: dict[str, Detection], names: tuple[str, str]) -> None:
    scales = np.concatenate([d.noise_scale for d in detections.values()])
    bins = np.linspace(0, max(np.quantile(scales, 0.999), 1e-6), 60)  # all 0 at lambda 0
    colours = {"id": ID_COLOUR, "ood": OOD_COLOUR}
    for (which, detection), name in zip(detections.items(), names, strict=True):
        axes.hist(
            detection.noise_scale, bins, density=True, alpha=0.6, color=colours[which], label=name
        )
    axes.set(xlabel="noise scale sigma (1 = black to white)", ylabel="density")
    axes.set_title("noise scale = lambda (1 - similarity)")
    axes.legend(frameon=False, loc="upper right")


def _curve(axes: Any, result: dict[str, Any]) -> None:
    curve = np.array(result["curve"])
    detectors = result["detectors"]
    positive = curve[:, 0] > 0
    strengths, ours, papers = curve[positive].T
    axes.semilogx(strengths, ours, "o-", color="black", ms=4, label="SPEM")
    axes.semilogx(strengths, papers, "o:", color="grey", ms=3, label="SPEM, the paper's form")
    axes.axhline(
        detectors["likelihood"]["auroc"], color=OOD_COLOUR, ls="--", label="likelihood alone"
    )
    axes.axhline(
        detectors["similarity"]["auroc"], color=ID_COLOUR, ls="--", label="similarity alone"
    )
    axes.axvline(result["noise_strength"], color=CHOSEN_COLOUR, label="chosen on ID images alone")
    axes.set(xlabel="noise strength lambda", ylabel="AUROC", ylim=(-0.02, 1.02))
    axes.set_title("the noise strength (paper's form: likelihood to similarity)")
    axes.legend(frameon=False, loc="lower right")


def _images(figure: Any, detections: dict[str, Detection], pair: ImagePair, scorer: Scorer) -> None:
    images = np.concatenate([pair.id_test, pair.ood_test])
    scales = np.concatenate([d.noise_scale for d in detections.values()])
    order = np.argsort(scales)
    picks = np.concatenate([order[:SHOWN], order[-SHOWN:][::-1]])
    key = jax.random.key(scorer.seed)
    perturbed = perturbed_images(key, jnp.asarray(images[picks]), jnp.asarray(scales[picks]))
    perturbed = np.clip(np.asarray(perturbed), 0, 1)
    grid = figure.subplots(2, 2 * SHOWN)
    for column, pick in enumerate(picks):
        for row, picture in enumerate((images[pick] / 255, perturbed[column])):
            axes = grid[row, column]
            axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=ID_COLOUR if pick < len(pair.id_test) else OOD_COLOUR, lw=2)
        grid[0, column].set_title(f"{scales[pick]:.2g}", fontsize=8)
    grid[0, 0].set_ylabel("before")
    grid[1, 0].set_ylabel("after")
    figure.suptitle(
        f"the {SHOWN} smallest and the {SHOWN} largest noise scales (frame: blue ID, red OOD)",
        fontsize=10,
    )
