"""Section (b): a model fitted to draws of a known law of the plane."""

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from ecood import memory
from ecood.theory import along, gap, mixture, monte_carlo, quadrature
from ecood.theory.along import Pair
from ecood.theory.crossing import turns_positive
from ecood.theory.mixture import Mixture
from experiments import figures
from experiments.figures import CHOSEN_COLOUR, OOD_COLOUR
from experiments.likelihood_gap import area, ranking

FITTED_TO = 500  # draws of P
LARGEST = 0.5  # no point is further than 1 - cos 60 degrees from three directions
STRENGTHS = np.concatenate([[0.0], np.geomspace(0.25, 6.0, 15)])
ANGLES = np.deg2rad([90.0, 210.0, 330.0])  # of P's modes, which are also the memory bank
COLOURS = {"between the modes": OOD_COLOUR, "on a mode": "#8a5fa8", "far away": CHOSEN_COLOUR}

TEXT = """P is a mixture of three modes; the model p is another, fitted to {draws} draws of P by
maximum likelihood, with KL(P || p) = {kl:.4f} nats. A point's embedding is its direction, the bank
the directions of the modes. In the exact terms, by quadrature, lambda (1 - s) is rounded to eight
levels, so that the conditional bound is a theorem. The draws agree with the quadrature to
{deviation:.1f} standard errors at worst, of {count} comparisons. Far away, where the likelihood
alone tells Q from P, noise raises the gap and lowers the AUROC: an expectation is no ranking."""

REPAIR_CAPTION = """The lambda at which the gap turns positive: measured by quadrature, and
certified from the entropies within the levels, from the mean noise scale, and from the noise alone.
AUROC (with its 95% interval) of the likelihood alone, at the largest lambda, and of the similarity
alone, which the ranking tends to."""

TERMS_CAPTION = """Every term in nats, before noise and at two strengths; draws ± standard error,
with the noise scale continuous as in the detector."""


def run(key: jax.Array, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fits the model, measures before and after noise, draws the figure, returns the section."""
    drawn = mixture.sample(jax.random.fold_in(key, 0), laws()["P"], FITTED_TO)
    model = mixture.fit(*drawn, len(ANGLES))
    size, draws = (256, 2_000) if arguments.quick else (512, 20_000)
    grid, seen = quadrature.grid(-16.0, 16.0, size, 2), {}
    for index, (name, law) in enumerate(
        tqdm.tqdm(laws().items(), "terms", leave=False, disable=None)
    ):
        given = jax.random.fold_in(key, 1 + index), grid, law, model, jnp.asarray(STRENGTHS)
        seen[name] = along.see(*given, similarity=similarity, largest=LARGEST, n=draws)
    p = seen.pop("P")
    pairs = [Pair(name, p, q) for name, q in seen.items()]
    figure(arguments.out / "plane.png", pairs)
    told = {"draws": FITTED_TO, "kl": float(-p.terms.log_prob[0] - p.terms.entropy[0])}
    told |= {"deviation": max(map(along.deviation, pairs)), "count": len(pairs) * len(STRENGTHS)}
    rows = [term_row(pair, index) for pair in pairs for index in shown(pairs[0])]
    return {
        "title": "(b) A model fitted to draws of a known law of the plane",
        "text": TEXT.format(**told),
        "figure": "plane.png",
        "tables": [
            {"caption": REPAIR_CAPTION, "rows": list(map(repair_row, pairs))},
            {"caption": TERMS_CAPTION, "rows": rows},
        ],
    }


def polar(radius: float, angles: np.ndarray) -> jax.Array:
    """Points [K, 2] from angles [K]."""
    return radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def laws() -> dict[str, Mixture]:
    """P, and three Qs."""

    def law(means: jax.Array, variance: float) -> Mixture:
        weights = jnp.full(len(means), 1 / len(means))
        return Mixture(weights, means, jnp.tile(variance * jnp.eye(2), (len(means), 1, 1)))

    return {
        "P": law(polar(1.5, ANGLES), 0.81),
        "between the modes": law(polar(0.8, np.deg2rad([30.0])), 0.15**2),
        "on a mode": law(polar(1.2, np.deg2rad([90.0])), 0.15**2),
        "far away": law(polar(4.5, np.deg2rad([30.0])), 0.7**2),
    }


def similarity(x: jax.Array) -> jax.Array:
    """Cosine to the nearest of the bank's directions, [B, 2] -> [B]: not what the density sees."""
    return memory.nearest_similarity(polar(1.0, ANGLES), memory.unit_norm(x))


def repair_row(pair: Pair) -> dict[str, Any]:
    """Where the gap turns positive, and where it is proved to."""
    _, p, q = pair
    bounds = "indexed", "mean", "floor"
    proved = {f"certified, {b}": turns_positive(STRENGTHS, pair.certified(b)) for b in bounds}
    return {
        "Q": pair.name,
        "H(Q) - H(P)": float(q.terms.entropy[0] - p.terms.entropy[0]),
        "gap before": float(pair.gap[0]),
        "measured": turns_positive(STRENGTHS, pair.gap),
        **proved,
        "AUROC before": area(p.smooth[0], q.smooth[0]),
        f"at {STRENGTHS[-1]:g}": area(p.smooth[-1], q.smooth[-1]),
        "similarity": area(p.dissimilarity, q.dissimilarity),
    }


def shown(pair: Pair) -> list[int]:
    """Before noise; just after the first certificate; at the largest strength."""
    proved, last = turns_positive(STRENGTHS, pair.certified()), len(STRENGTHS) - 1
    middle = last // 2 if proved is None else int(np.searchsorted(STRENGTHS, proved))
    return sorted({0, middle, last})


def term_row(pair: Pair, index: int) -> dict[str, Any]:
    """The decomposition at one strength."""
    p, q, scores = pair.p.terms, pair.q.terms, (pair.p.smooth[index], pair.q.smooth[index])
    parts = gap.decompose(p.log_prob, q.log_prob, p.entropy, q.entropy)
    return {
        "Q": pair.name,
        "lambda": float(STRENGTHS[index]),
        "KL(Q' to p)": float(parts.kl_ood[index]),
        "KL(P' to p)": float(parts.kl_id[index]),
        "H(Q')": float(parts.entropy_ood[index]),
        "H(P')": float(parts.entropy_id[index]),
        "gap": float(parts.gap[index]),
        "draws": tuple(map(float, monte_carlo.gap(*scores))),
        "certificate": float(pair.certified()[index]),
        **ranking(*scores),
    }


def figure(path: pathlib.Path, pairs: list[Pair]) -> None:
    """The gaps over lambda."""
    drawing, (axes,) = figures.panels(1, 7.0, 4.75)
    for pair in pairs:
        exact, colour = pair.gap, COLOURS[pair.name]
        value, error = along.drawn_gap(pair.p.smooth, pair.q.smooth)
        above = f" (above, from {exact[0]:.1f} to {exact[-1]:.1f})" if exact[0] > 4 else ""
        axes.errorbar(STRENGTHS, value, 2 * error, fmt=".", color=colour, capsize=2)
        axes.plot(STRENGTHS, exact, color=colour, label=pair.name + above)
        axes.plot(STRENGTHS, pair.certified(), "--", color=colour)
    axes.plot([], [], "--", color="grey", label="certified (the line's colour)")
    axes.errorbar([], [], [], fmt=".", color="grey", capsize=2, label="from draws (2 s.e.)")
    axes.set(xlabel=figures.LAMBDA["xlabel"], ylabel="gap, nats", ylim=(-4, 4))
    axes.set_title("The gap after noise: exact, from draws, and certified")
    figures.gap_zone(axes)
    figures.legend_below(drawing, 2)
    figures.save(drawing, path)
