"""Section (a): Gaussians, where everything is closed form."""

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from ecood.theory import crossing, gaussian, monte_carlo
from ecood.theory.gaussian import Gaussian
from ecood.theory.ratio import Case
from experiments import figures
from experiments.figures import CHOSEN_COLOUR, ID_COLOUR, OOD_COLOUR
from experiments.likelihood_gap import ranking

DIM = 64
NARROW = 0.5  # the standard deviation of Q in the figure, where that of P is 1
SEPARATED = 0.4  # sigma_P / sigma_Q where the similarity tells P from Q
SCALES = np.concatenate([[0.0], np.geomspace(0.02, 20.0, 3000)])  # of the noise on Q

TEXT = f"""P = N(0, I), Q = N(0, {NARROW}^2 I) and a perfect model, in the figure: what noise does
to the gap, exactly (solid) and as certified (dashed), for noise on P in a fixed ratio to that on Q.
The paradox needs a Q of lower entropy that sits where the model is dense: shifted, it is gone."""

CAPTION = """Gap in nats. "Exact" and "certified from" are the smallest noise scales on Q at which
it is positive and proved positive; the proof ends at "certified to". What follows is at "certified
from", else at 2: the gap predicted and measured on {draws} draws (± its standard error), the AUROC
(with its 95% interval), binormal, and bounded by the measured moments alone."""


def white(variance: float, shift: float = 0.0) -> Gaussian:
    """N(shift, variance I) in DIM dimensions."""
    return Gaussian(jnp.full(DIM, shift), variance * jnp.eye(DIM))


def cases() -> dict[str, Case]:
    """What the table compares."""
    p = white(1.0)
    narrow = p, white(NARROW**2), p
    return {
        "narrow Q, similarity separates": Case(*narrow, SEPARATED),
        "narrow Q, similarity separates poorly": Case(*narrow, 0.8),
        "narrow Q, common noise": Case(*narrow, 1.0),
        "narrow Q, similarity misleads": Case(*narrow, 1.2),
        "narrow Q, shifted: no paradox": Case(p, white(NARROW**2, 1.0), p, SEPARATED),
        "wide Q, misplaced model": Case(p, white(1.2**2, 1.0), white(1.0, 1.0), SEPARATED),
    }


def run(key: jax.Array, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the cases, draws the figure, returns the section."""
    draws = 2_000 if arguments.quick else 20_000
    each = enumerate(tqdm.tqdm(cases().items(), "gaussians", leave=False, disable=None))
    rows = [measure(jax.random.fold_in(key, index), *case, draws) for index, case in each]
    figure(arguments.out / "gaussian.png")
    return {
        "title": f"(a) Gaussians in {DIM} dimensions",
        "text": TEXT,
        "figure": "gaussian.png",
        "tables": [{"caption": CAPTION.format(draws=draws), "rows": rows}],
    }


def measure(key: jax.Array, name: str, case: Case, draws: int) -> dict[str, Any]:
    """One row of the table: predictions, and draws to check them."""
    sigmas = jnp.asarray(SCALES)
    start, end = crossing.positive_range(SCALES, case.certified(sigmas))
    sigma = 2.0 if start is None else start
    noisy = gaussian.perturb(case.p, case.ratio * sigma), gaussian.perturb(case.q, sigma)
    scores = []
    for index, law in enumerate(noisy):
        points = gaussian.sample(jax.random.fold_in(key, index), law, draws)
        scores.append(-jax.vmap(gaussian.log_prob, in_axes=(None, 0))(case.model, points))
    return {
        "case": name,
        "ratio": case.ratio,
        "H(Q) - H(P)": float(gaussian.entropy(case.q) - gaussian.entropy(case.p)),
        "gap before": float(case.gap(jnp.zeros(()))),
        "exact": crossing.positive_range(SCALES, case.gap(sigmas))[0],
        "certified from": start,
        "certified to": end,
        "gap after": float(case.gap(jnp.asarray(sigma))),
        "measured": tuple(map(float, monte_carlo.gap(*scores))),
        **ranking(*scores),
    }


def figure(path: pathlib.Path) -> None:
    """The gap of the first case over the noise, at four ratios."""
    drawing, (axes,) = figures.panels(1, 7.0, 4.75)
    first, *_ = cases().values()
    sigmas = jnp.linspace(0.0, 3.0, 200)
    colours = {0.0: "black", SEPARATED: CHOSEN_COLOUR, 1.0: ID_COLOUR, 1.2: OOD_COLOUR}
    for ratio, colour in colours.items():
        case, label = first._replace(ratio=ratio), f"noise on P = {ratio:g} x noise on Q"
        axes.plot(sigmas, case.gap(sigmas) / DIM, color=colour, label=label)
        axes.plot(sigmas, case.certified(sigmas) / DIM, "--", color=colour)
    axes.plot([], [], "--", color="grey", label="certified (the line's colour)")
    axes.set(xlabel="noise scale on Q", ylabel="gap, nats/dim", ylim=(-1.5, 2))
    axes.set_title("The gap after noise: exact, and certified")
    figures.gap_zone(axes)
    figures.legend_below(drawing, 2)
    figures.save(drawing, path)
