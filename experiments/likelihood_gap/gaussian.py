"""Section (a): Gaussians, where everything is closed form."""

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
from experiments.likelihood_gap.sections import ranking

DIM = 64
NARROW = 0.5  # the standard deviation of Q in the figure, where that of P is 1
SEPARATED = 0.4  # sigma_P / sigma_Q where the similarity tells P from Q
SCALES = np.concatenate([[0.0], np.geomspace(0.02, 20.0, 3000)])  # of the noise on Q

TEXT = f"""P = N(0, I), Q = N(0, {NARROW}^2 I) and a perfect model, in the figure. Left: the paradox
needs a Q of lower entropy that sits where the model is dense; far enough away it is gone. Right:
what noise does to the gap, exactly (solid) and as certified (dashed), for noise on P in a fixed
ratio to that on Q."""

CASES_CAPTION = """Gap in nats. "Exact" and "certified from" are the smallest noise scales on Q at
which the gap is positive and proved positive, with the noise on P in the given ratio. The gap stays
positive from there on, as here it grows with the noise; the proof ends at "certified to", where
the noise on P has cost too much. What follows is at "certified from" if there is one, else at 2:
the gap predicted and measured on {draws} draws (± its standard error), the AUROC measured (with its
95% interval), its binormal approximation, and the bounds that the measured moments alone imply."""

SPECTRA_CAPTION = """Some noise is certified for every Q whatever its entropy if the noise on P is a
smaller share of the noise on Q than this. The less white the data, the less noise P may get."""


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


def coloured(scale: float) -> Gaussian:
    """Variances falling as 1 / k^2, as those of natural images do, of mean `scale`^2."""
    spectrum = 1.0 / jnp.arange(1, DIM + 1) ** 2
    return Gaussian(jnp.zeros(DIM), jnp.diag(scale**2 * spectrum / jnp.mean(spectrum)))


def cases() -> list[Case]:
    """What the table compares."""
    p, colours = white(1.0), (coloured(1.0), coloured(NARROW), coloured(1.0))
    narrow = p, white(NARROW**2), p
    return [
        Case("narrow Q, similarity separates", *narrow, SEPARATED),
        Case("narrow Q, similarity separates poorly", *narrow, 0.8),
        Case("narrow Q, common noise", *narrow, 1.0),
        Case("narrow Q, similarity misleads", *narrow, 1.2),
        Case("narrow Q, shifted: no paradox", p, white(NARROW**2, 1.0), p, SEPARATED),
        Case("wide Q, misplaced model", p, white(1.2**2, 1.0), white(1.0, 1.0), SEPARATED),
        Case("coloured P and narrow Q", *colours, SEPARATED),
        Case("coloured, separates better", *colours, 0.1),
    ]


def run(key: jax.Array, out: pathlib.Path, quick: bool) -> dict[str, Any]:
    """Measures the cases, draws the figure, returns the section."""
    draws = 2_000 if quick else 20_000
    each = enumerate(tqdm.tqdm(cases(), "gaussians", leave=False))
    rows = [measure(jax.random.fold_in(key, index), case, draws) for index, case in each]
    laws = {"white": white(1.0), "coloured, variances 1/k^2": coloured(1.0)}
    drawing, (left, right) = figures.panels(2, 6.0, 4.5)
    _paradox(left)
    _repair(right)
    figures.save(drawing, out / "gaussian.png")
    return {
        "title": f"(a) Gaussians in {DIM} dimensions",
        "text": TEXT,
        "figure": "gaussian.png",
        "tables": [
            {"caption": CASES_CAPTION.format(draws=draws), "rows": rows},
            {"caption": SPECTRA_CAPTION, "rows": [spectrum(*law) for law in laws.items()]},
        ],
    }


def spectrum(name: str, law: Gaussian) -> dict[str, Any]:
    """One row of the table on spectra: from E_P log p and the curvature L of a model that is P."""
    clean, curvature = -gaussian.entropy(law), gaussian.fisher_information(law) / DIM
    return {
        "P = model": name,
        "N(H(P)) L": float(bounds.entropy_power(-clean, DIM) * curvature),
        "critical ratio": float(certificate.critical_ratio(clean, curvature, DIM)),
    }


def gap_before(case: Case) -> jax.Array:
    """E_P log p - E_Q log p without noise, nats."""
    return gaussian.cross_entropy(case.q, case.model) - gaussian.cross_entropy(case.p, case.model)


def certified(case: Case, sigmas: jax.Array) -> jax.Array:
    """The lower bound on the gap at noise scales sigmas on Q and ratio sigmas on P."""
    noisy_p = jax.vmap(gaussian.perturb, in_axes=(None, 0))(case.p, case.ratio * sigmas)
    id_log_prob = -jax.vmap(gaussian.cross_entropy, in_axes=(0, None))(noisy_p, case.model)
    bound = bounds.fixed_noise(gaussian.entropy(case.q), sigmas, DIM)
    return certificate.gap(bound, id_log_prob)


def exact(case: Case, sigmas: jax.Array) -> jax.Array:
    """The gap at noise scales sigmas on Q and ratio sigmas on P."""
    trace = gaussian.fisher_information(case.model)
    return gap.gaussian_gap(gap_before(case), trace, case.ratio * sigmas, sigmas)


def measure(key: jax.Array, case: Case, draws: int) -> dict[str, Any]:
    """One row of the table: predictions, and draws to check them."""
    sigmas = jnp.asarray(SCALES)
    start, end = crossing.positive_range(SCALES, certified(case, sigmas))
    sigma = 2.0 if start is None else start
    scores = []
    for index, (law, scale) in enumerate(((case.p, case.ratio * sigma), (case.q, sigma))):
        draw_key = jax.random.fold_in(key, index)
        points = gaussian.sample(draw_key, gaussian.perturb(law, scale), draws)
        scores.append(-jax.vmap(gaussian.log_prob, in_axes=(None, 0))(case.model, points))
    return {
        "case": case.name,
        "ratio": case.ratio,
        "H(Q) - H(P)": float(gaussian.entropy(case.q) - gaussian.entropy(case.p)),
        "gap before": float(gap_before(case)),
        "exact": crossing.positive_range(SCALES, exact(case, sigmas))[0],
        "certified from": start,
        "certified to": end,
        "gap after": float(exact(case, jnp.asarray(sigma))),
        "measured": tuple(map(float, monte_carlo.gap(*scores))),
        **ranking(*scores),
    }


def _paradox(axes: Any) -> None:
    deviations, p = jnp.geomspace(0.1, 3.0, 60), white(1.0)
    for shift, shade in ((0.0, 1.0), (0.7, 0.7), (1.0, 0.4)):
        laws = jax.vmap(lambda deviation: white(deviation**2, shift))(deviations)
        gaps = jax.vmap(lambda q: gap_before(Case("", p, q, p, 0.0)))(laws) / DIM
        label = f"mean shifted by {shift:g}"
        axes.semilogx(deviations, gaps, color=OOD_COLOUR, alpha=shade, label=label)
    label = "H(Q) - H(P), a lower bound"
    axes.semilogx(deviations, jnp.log(deviations), "--", color="grey", label=label)
    axes.axhspan(-2.5, 0, color=OOD_COLOUR, alpha=0.08)
    axes.text(0.11, -0.2, "paradox", color=OOD_COLOUR)
    axes.set(xlabel="standard deviation of Q (of P: 1)", ylabel="gap before noise, nats/dim")
    axes.set(title="Where the paradox appears", ylim=(-2.5, 3))
    axes.legend(frameon=False, loc="upper left")


def _repair(axes: Any) -> None:
    sigmas = jnp.linspace(0.0, 3.0, 200)
    colours = {0.0: "black", SEPARATED: CHOSEN_COLOUR, 1.0: ID_COLOUR, 1.2: OOD_COLOUR}
    for ratio, colour in colours.items():
        case = cases()[0]._replace(ratio=ratio)
        label = f"noise on P = {ratio:g} x noise on Q"
        axes.plot(sigmas, exact(case, sigmas) / DIM, color=colour, label=label)
        axes.plot(sigmas, certified(case, sigmas) / DIM, "--", color=colour)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set(xlabel="noise scale on Q", ylabel="gap after noise, nats/dim", ylim=(-1.5, 2))
    axes.set_title("What noise does to it: exact (solid), certified (dashed)")
    axes.legend(frameon=False, loc="upper left")
