"""Section (a): Gaussians, where everything is closed form."""

import argparse
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from ecood.theory import bounds, certificate, crossing, gap, gaussian, monte_carlo
from ecood.theory.gaussian import Gaussian
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


class Case(NamedTuple):
    """P, Q, a model, and how much of Q's noise falls on P."""

    name: str
    p: Gaussian
    q: Gaussian
    model: Gaussian
    ratio: float


def white(variance: float, shift: float = 0.0) -> Gaussian:
    """N(shift, variance I) in DIM dimensions."""
    return Gaussian(jnp.full(DIM, shift), variance * jnp.eye(DIM))


def cases() -> list[Case]:
    """What the table compares."""
    p = white(1.0)
    narrow = p, white(NARROW**2), p
    return [
        Case("narrow Q, similarity separates", *narrow, SEPARATED),
        Case("narrow Q, similarity separates poorly", *narrow, 0.8),
        Case("narrow Q, common noise", *narrow, 1.0),
        Case("narrow Q, similarity misleads", *narrow, 1.2),
        Case("narrow Q, shifted: no paradox", p, white(NARROW**2, 1.0), p, SEPARATED),
        Case("wide Q, misplaced model", p, white(1.2**2, 1.0), white(1.0, 1.0), SEPARATED),
    ]


def run(key: jax.Array, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the cases, draws the figure, returns the section."""
    draws = 2_000 if arguments.quick else 20_000
    each = enumerate(tqdm.tqdm(cases(), "gaussians", leave=False, disable=None))
    rows = [measure(jax.random.fold_in(key, index), case, draws) for index, case in each]
    figure(arguments.out / "gaussian.png")
    return {
        "title": f"(a) Gaussians in {DIM} dimensions",
        "text": TEXT,
        "figure": "gaussian.png",
        "tables": [{"caption": CAPTION.format(draws=draws), "rows": rows}],
    }


def certified(case: Case, sigmas: jax.Array) -> jax.Array:
    """The lower bound on the gap at noise scales sigmas on Q and ratio sigmas on P."""
    noisy_p = jax.vmap(gaussian.perturb, in_axes=(None, 0))(case.p, case.ratio * sigmas)
    id_log_prob = -jax.vmap(gaussian.cross_entropy, in_axes=(0, None))(noisy_p, case.model)
    bound = bounds.fixed_noise(gaussian.entropy(case.q), sigmas, DIM)
    return certificate.gap(bound, id_log_prob)


def exact(case: Case, sigmas: jax.Array) -> jax.Array:
    """The gap at noise scales sigmas on Q and ratio sigmas on P."""
    p, q = (gaussian.cross_entropy(law, case.model) for law in (case.p, case.q))
    trace = gaussian.fisher_information(case.model)
    return gap.gaussian_gap(q - p, trace, case.ratio * sigmas, sigmas)


def measure(key: jax.Array, case: Case, draws: int) -> dict[str, Any]:
    """One row of the table: predictions, and draws to check them."""
    sigmas = jnp.asarray(SCALES)
    start, end = crossing.positive_range(SCALES, certified(case, sigmas))
    sigma = 2.0 if start is None else start
    noisy = gaussian.perturb(case.p, case.ratio * sigma), gaussian.perturb(case.q, sigma)
    scores = []
    for index, law in enumerate(noisy):
        points = gaussian.sample(jax.random.fold_in(key, index), law, draws)
        scores.append(-jax.vmap(gaussian.log_prob, in_axes=(None, 0))(case.model, points))
    return {
        "case": case.name,
        "ratio": case.ratio,
        "H(Q) - H(P)": float(gaussian.entropy(case.q) - gaussian.entropy(case.p)),
        "gap before": float(exact(case, jnp.zeros(()))),
        "exact": crossing.positive_range(SCALES, exact(case, sigmas))[0],
        "certified from": start,
        "certified to": end,
        "gap after": float(exact(case, jnp.asarray(sigma))),
        "measured": tuple(map(float, monte_carlo.gap(*scores))),
        **ranking(*scores),
    }


def figure(path: pathlib.Path) -> None:
    """The gap of the first case over the noise, at four ratios."""
    drawing, (axes,) = figures.panels(1, 7.0, 4.75)
    sigmas = jnp.linspace(0.0, 3.0, 200)
    colours = {0.0: "black", SEPARATED: CHOSEN_COLOUR, 1.0: ID_COLOUR, 1.2: OOD_COLOUR}
    for ratio, colour in colours.items():
        case, label = cases()[0]._replace(ratio=ratio), f"noise on P = {ratio:g} x noise on Q"
        axes.plot(sigmas, exact(case, sigmas) / DIM, color=colour, label=label)
        axes.plot(sigmas, certified(case, sigmas) / DIM, "--", color=colour)
    axes.plot([], [], "--", color="grey", label="certified (the line's colour)")
    axes.set(xlabel="noise scale on Q", ylabel="gap, nats/dim", ylim=(-1.5, 2))
    axes.set_title("The gap after noise: exact, and certified")
    figures.gap_zone(axes)
    figures.legend_below(drawing, 2)
    figures.save(drawing, path)
