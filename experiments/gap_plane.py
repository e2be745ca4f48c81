"""Section (b) of the likelihood gap: a flow trained on a known density of the plane."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecood import memory, metrics, perturb
from ecood.theory import auroc, bounds, certificate, gap, mixture, monte_carlo, quadrature
from ecood.theory.mixture import Mixture
from ecood.theory.monte_carlo import Estimate
from ecood.theory.quadrature import Grid
from experiments import figures, plane_flow, report
from experiments.crossing import turns_positive
from experiments.figures import CHOSEN_COLOUR, ID_COLOUR, OOD_COLOUR, plt

LEVELS = 8  # of the noise scale, equally wide
LARGEST_DISSIMILARITY = 0.5  # 1 - cos 60 degrees: three directions leave no point further
STRENGTHS = np.concatenate([[0.0], np.geomspace(0.25, 6.0, 15)])
ANGLES = np.deg2rad([90.0, 210.0, 330.0])  # of P's modes, which are also the memory bank
BETWEEN = "between the modes"


class Terms(NamedTuple):
    """One law after noise, by quadrature, in nats; a leading axis [L] over the strengths.

    Attributes:
      entropy: H(R').
      log_prob: E_{R'} log p.
      indexed: lower bound on H(R') from the entropies within the levels.
      mean: the same weakened to H(R), H(I) and the geometric mean of the noise scale.
      floor: the entropy of the noise alone.
    """

    entropy: jax.Array
    log_prob: jax.Array
    indexed: jax.Array
    mean: jax.Array
    floor: jax.Array


class Drawn(NamedTuple):
    """Scores -log p(x + sigma z) of one law's draws, [L, n].

    Attributes:
      levels: sigma by levels, as in the quadrature.
      smooth: sigma a continuous function of the point, as in the detector.
      dissimilarity: 1 - s of the points, [n].
    """

    levels: jax.Array
    smooth: jax.Array
    dissimilarity: jax.Array


def run(key: jax.Array, out: pathlib.Path, quick: bool) -> dict[str, Any]:
    """Trains the flow, measures before and after noise, draws the figure, returns the section."""
    log_prob = plane_flow.train(jax.random.fold_in(key, 0), laws()["P"], 300 if quick else 3000)
    grid = quadrature.grid(-16.0, 16.0, 256 if quick else 512, 2)
    log_model = log_prob(grid.points)
    terms, drawn = {}, {}
    with report.progress_bar(len(laws()), "terms", unit="law") as bar:
        for index, (name, law) in enumerate(laws().items()):
            density = jnp.exp(jax.vmap(mixture.log_prob, in_axes=(None, 0))(law, grid.points))
            terms[name] = measure(grid, density, level(1 - similarity(grid.points)), log_model)
            draw_key = jax.random.fold_in(key, 1 + index)
            drawn[name] = draw(draw_key, law, log_prob, 2_000 if quick else 20_000)
            bar.update()
    names = [name for name in terms if name != "P"]
    figure(out / "plane.png", log_prob, terms, drawn)
    return {
        "title": "(b) A flow trained on a known density of the plane",
        "text": TEXT.format(
            kl=float(-terms["P"].log_prob[0] - terms["P"].entropy[0]),
            deviation=max(deviation(terms, drawn, name) for name in names),
            count=len(names) * len(STRENGTHS),
        ),
        "figure": "plane.png",
        "tables": [
            {"caption": REPAIR_CAPTION, "rows": [repair_row(terms, drawn, q) for q in names]},
            {
                "caption": TERMS_CAPTION,
                "rows": [term_row(terms, drawn, q, i) for q in names for i in shown(terms)],
            },
        ],
    }


TEXT = """P is a mixture of three modes; the flow's KL(P || p) is {kl:.4f} nats. A point's embedding
is its direction, the bank the three directions of the modes. For the exact terms the noise scale
lambda (1 - s) is rounded to eight levels, so that it is a function of a discrete index and the
conditional bound is a theorem; every entropy is by quadrature. The draws agree with the quadrature
to {deviation:.1f} standard errors at worst, of {count} comparisons. Far away, where the likelihood
alone tells Q from P, noise raises the gap and lowers the AUROC: an expectation is no ranking."""

REPAIR_CAPTION = """The lambda at which the gap turns positive: measured by quadrature, and
certified by three bounds: from the entropies within the levels, from the mean noise scale, and
from the noise alone, which needs no entropy of Q. AUROC (with its 95% interval) of the likelihood
alone, at the largest lambda, and of the similarity alone, which the ranking tends to."""

TERMS_CAPTION = """Every term in nats, before noise and at two strengths; draws ± standard error,
with the noise scale continuous as in the detector."""


def level(dissimilarity: jax.Array) -> jax.Array:
    """The level of 1 - s, int in [0, LEVELS)."""
    scaled = jnp.floor(dissimilarity / LARGEST_DISSIMILARITY * LEVELS)
    return jnp.clip(scaled, 0, LEVELS - 1).astype(int)


def level_scale(level: jax.Array) -> jax.Array:
    """The dissimilarity that stands for a level: its middle."""
    return (level + 0.5) * LARGEST_DISSIMILARITY / LEVELS


@jax.jit
def measure(grid: Grid, density: jax.Array, levels: jax.Array, log_model: jax.Array) -> Terms:
    """All terms of a law at all strengths; density, levels and log_model at the points, [M]."""
    pieces = jnp.where(jnp.arange(LEVELS)[:, None] == levels[None, :], density[None, :], 0.0)
    shares = jnp.sum(pieces, axis=1) * grid.cell
    present = shares > 0
    safe = jnp.where(present, shares, 1.0)
    inside = jax.vmap(lambda piece: quadrature.entropy(grid, quadrature.log(piece)))(
        pieces / safe[:, None]
    )
    index_entropy = -jnp.sum(shares * jnp.log(safe))
    clean = quadrature.entropy(grid, quadrature.log(density))

    def at(strength: jax.Array) -> Terms:
        sigmas = strength * level_scale(jnp.arange(LEVELS))
        noisy = jnp.sum(jax.vmap(quadrature.smooth, (None, 0, 0))(grid, pieces, sigmas), axis=0)
        log_noisy = quadrature.log(noisy)
        mean_log_sigma = jnp.sum(jnp.where(present, shares * jnp.log(sigmas), 0.0))
        return Terms(
            entropy=quadrature.entropy(grid, log_noisy),
            log_prob=quadrature.expectation(grid, log_noisy, log_model),
            indexed=bounds.indexed_noise(shares, inside, sigmas, 2),
            mean=bounds.indexed_noise_mean(clean, index_entropy, mean_log_sigma, 2),
            floor=bounds.arbitrary_noise(mean_log_sigma, 2),
        )

    return jax.lax.map(at, jnp.asarray(STRENGTHS))


def draw(key: jax.Array, law: Mixture, log_prob: Callable, n: int) -> Drawn:
    """Scores of n draws at every strength."""
    points, noise = jax.random.split(key)
    x, _ = mixture.sample(points, law, n)
    dissimilarity = 1.0 - similarity(x)
    z = jax.random.normal(noise, (len(STRENGTHS), n, 2))

    @jax.jit
    def scores(sigma: jax.Array) -> jax.Array:
        noisy = x[None] + jnp.asarray(STRENGTHS)[:, None, None] * sigma[None, :, None] * z
        return -log_prob(noisy.reshape(-1, 2)).reshape(len(STRENGTHS), n)

    return Drawn(
        levels=scores(level_scale(level(dissimilarity))),
        smooth=scores(perturb.noise_scale(1.0 - dissimilarity, 1.0)),
        dissimilarity=dissimilarity,
    )


def gaps(terms: dict[str, Terms], name: str) -> jax.Array:
    """The gap between P' and Q' by quadrature, [L]."""
    return terms["P"].log_prob - terms[name].log_prob


def drawn_gap(id_scores: jax.Array, ood_scores: jax.Array) -> Estimate:
    """The gap from draws, with its standard error."""
    id_mean, ood_mean = monte_carlo.mean(id_scores), monte_carlo.mean(ood_scores)
    return Estimate(ood_mean.value - id_mean.value, jnp.hypot(id_mean.error, ood_mean.error))


def deviation(terms: dict[str, Terms], drawn: dict[str, Drawn], name: str) -> float:
    """The largest distance between draws and quadrature, in standard errors."""
    estimate = jax.vmap(drawn_gap)(drawn["P"].levels, drawn[name].levels)
    return float(jnp.max(jnp.abs(estimate.value - gaps(terms, name)) / estimate.error))


def repair_row(terms: dict[str, Terms], drawn: dict[str, Drawn], name: str) -> dict[str, Any]:
    """Where the gap turns positive, and where it is proved to."""
    id_term = terms["P"].log_prob
    proved = {
        form: turns_positive(STRENGTHS, certificate.gap(getattr(terms[name], form), id_term))
        for form in ("indexed", "mean", "floor")
    }
    p, q = drawn["P"], drawn[name]
    return {
        "Q": name,
        "H(Q) - H(P)": float(terms[name].entropy[0] - terms["P"].entropy[0]),
        "gap before": float(gaps(terms, name)[0]),
        "measured": turns_positive(STRENGTHS, gaps(terms, name)),
        **{f"certified, {form}": value for form, value in proved.items()},
        "AUROC before": area(p.smooth[0], q.smooth[0]),
        f"at {STRENGTHS[-1]:g}": area(p.smooth[-1], q.smooth[-1]),
        "similarity": area(p.dissimilarity, q.dissimilarity),
    }


def area(id_scores: jax.Array, ood_scores: jax.Array) -> str:
    """AUROC with its interval."""
    low, high = metrics.auroc_interval(id_scores, ood_scores)
    return f"{metrics.auroc(id_scores, ood_scores):.3f} [{low:.3f}, {high:.3f}]"


def shown(terms: dict[str, Terms]) -> list[int]:
    """Before noise; just after the first certificate; at the largest strength."""
    bound = certificate.gap(terms[BETWEEN].indexed, terms["P"].log_prob)
    proved = turns_positive(STRENGTHS, bound)
    last = len(STRENGTHS) - 1
    middle = last // 2 if proved is None else int(np.searchsorted(STRENGTHS, proved))
    return sorted({0, middle, last})


def term_row(
    terms: dict[str, Terms], drawn: dict[str, Drawn], name: str, index: int
) -> dict[str, Any]:
    """The decomposition at one strength."""
    p, q = (jax.tree.map(lambda leaf: leaf[index], terms[law]) for law in ("P", name))
    parts = gap.decompose(p.log_prob, q.log_prob, p.entropy, q.entropy)
    scores = drawn["P"].smooth[index], drawn[name].smooth[index]
    moments = (drawn_gap(*scores).value, jnp.var(scores[0]), jnp.var(scores[1]))
    return {
        "Q": name,
        "lambda": float(STRENGTHS[index]),
        "KL(Q' to p)": float(parts.kl_ood),
        "KL(P' to p)": float(parts.kl_id),
        "H(Q')": float(parts.entropy_ood),
        "H(P')": float(parts.entropy_id),
        "gap": float(parts.gap),
        "draws": tuple(map(float, drawn_gap(*scores))),
        "certificate": float(certificate.gap(q.indexed, p.log_prob)),
        "AUROC": area(*scores),
        "binormal": float(auroc.binormal(*moments)),
        "bounds": f"[{auroc.lower_bound(*moments):.3f}, {auroc.upper_bound(*moments):.3f}]",
    }


def figure(
    path: pathlib.Path, log_prob: Callable, terms: dict[str, Terms], drawn: dict[str, Drawn]
) -> None:
    """The plane; the terms; the gaps; the AUROC."""
    drawing, axes = plt.subplots(2, 2, figsize=(12, 9.5), layout="constrained")
    _plane(axes[0, 0], log_prob)
    _terms(axes[0, 1], terms)
    _gaps(axes[1, 0], terms, drawn)
    _auroc(axes[1, 1], drawn)
    figures.save(drawing, path)


COLOURS = {BETWEEN: OOD_COLOUR, "on a mode": "#8a5fa8", "far away": CHOSEN_COLOUR}


def _plane(axes: Any, log_prob: Callable) -> None:
    grid = quadrature.grid(-6.0, 6.0, 121, 2)
    density = np.exp(np.asarray(log_prob(grid.points))).reshape(121, 121).T
    axes.contourf(grid.axis, grid.axis, density, levels=12, cmap="Blues")
    for index, (name, law) in enumerate(laws().items()):
        if name != "P":
            x, _ = mixture.sample(jax.random.key(index), law, 150)
            axes.plot(*x.T, ".", ms=3, color=COLOURS[name], label=name)
    for direction in polar(1.0, ANGLES):
        axes.annotate("", 5.5 * direction, (0, 0), arrowprops={"arrowstyle": "->", "alpha": 0.5})
    axes.set(title="The flow's density, the bank's directions, three Qs", aspect="equal")
    axes.legend(frameon=False, loc="upper left")


def _terms(axes: Any, terms: dict[str, Terms]) -> None:
    p, q = terms["P"], terms[BETWEEN]
    parts = gap.decompose(p.log_prob, q.log_prob, p.entropy, q.entropy)
    for values, label, style in (
        (parts.kl_ood, "KL(Q' to p)", {"color": OOD_COLOUR}),
        (parts.kl_id, "KL(P' to p)", {"color": ID_COLOUR}),
        (parts.entropy_ood, "H(Q')", {"color": OOD_COLOUR, "ls": "--"}),
        (parts.entropy_id, "H(P')", {"color": ID_COLOUR, "ls": "--"}),
        (q.indexed, "bound on H(Q'), indexed", {"color": "black", "ls": ":"}),
        (q.mean, "bound on H(Q'), mean", {"color": "grey", "ls": ":"}),
        (q.floor, "bound on H(Q'), noise alone", {"color": "silver", "ls": ":"}),
    ):
        axes.plot(STRENGTHS, values, label=label, **style)
    axes.set(xlabel="noise strength lambda", ylabel="nats", ylim=(-3, 5.5))
    axes.set_title(f"Every term, Q {BETWEEN}")
    axes.legend(frameon=False, ncols=2, loc="lower right")


def _gaps(axes: Any, terms: dict[str, Terms], drawn: dict[str, Drawn]) -> None:
    for name, colour in COLOURS.items():
        estimate = jax.vmap(drawn_gap)(drawn["P"].smooth, drawn[name].smooth)
        exact = gaps(terms, name)
        above = f" (above, from {exact[0]:.1f} to {exact[-1]:.1f})" if exact[0] > 4 else ""
        axes.plot(STRENGTHS, exact, color=colour, label=name + above)
        axes.errorbar(
            STRENGTHS, estimate.value, 2 * estimate.error, fmt=".", color=colour, capsize=2
        )
        bound = certificate.gap(terms[name].indexed, terms["P"].log_prob)
        axes.plot(STRENGTHS, bound, "--", color=colour)
        if name == BETWEEN:
            for values, style in ((exact, "-"), (bound, "--")):
                if (where := turns_positive(STRENGTHS, values)) is not None:
                    axes.axvline(where, color=colour, ls=style, lw=0.8)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set(xlabel="noise strength lambda", ylabel="gap, nats", ylim=(-4, 4))
    axes.set_title("Gap: exact (solid), draws (2 s.e.), certificate (dashed)")
    axes.legend(frameon=False, loc="upper left")


def _auroc(axes: Any, drawn: dict[str, Drawn]) -> None:
    p = drawn["P"]
    for name, colour in COLOURS.items():
        q = drawn[name]
        measured = [metrics.auroc(*pair) for pair in zip(p.smooth, q.smooth, strict=True)]
        axes.plot(STRENGTHS, measured, "o-", ms=3, color=colour, label=name)
        estimate = jax.vmap(drawn_gap)(p.smooth, q.smooth)
        moments = estimate.value, jnp.var(p.smooth, axis=1), jnp.var(q.smooth, axis=1)
        axes.plot(STRENGTHS, auroc.binormal(*moments), ":", color=colour)
        if name == BETWEEN:
            low, high = auroc.lower_bound(*moments), auroc.upper_bound(*moments)
            label = f"bounds from the moments, {name}"
            axes.fill_between(STRENGTHS, low, high, color=colour, alpha=0.1, label=label)
        ends = metrics.auroc(p.dissimilarity, q.dissimilarity)
        axes.plot(STRENGTHS[-1] * 1.03, ends, "<", color=colour)
    axes.axhline(0.5, color="grey", lw=0.8)
    axes.set(xlabel="noise strength lambda", ylabel="AUROC", ylim=(-0.02, 1.02))
    axes.set_title("AUROC: measured, binormal (dotted), similarity alone (<)")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.52))


def polar(radius: float, angles: np.ndarray) -> jax.Array:
    """Points [K, 2]."""
    return radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def laws() -> dict[str, Mixture]:
    """P, and three Qs."""

    def one(point: jax.Array, deviation: float) -> Mixture:
        return Mixture(jnp.ones(1), point, deviation**2 * jnp.eye(2)[None])

    modes = polar(1.5, ANGLES)
    return {
        "P": Mixture(jnp.full(3, 1 / 3), modes, jnp.tile(0.81 * jnp.eye(2), (3, 1, 1))),
        BETWEEN: one(polar(0.8, np.deg2rad([30.0])), 0.15),
        "on a mode": one(polar(1.2, np.deg2rad([90.0])), 0.15),
        "far away": one(polar(4.5, np.deg2rad([30.0])), 0.7),
    }


def similarity(x: jax.Array) -> jax.Array:
    """Cosine to the nearest of the bank's directions, [B, 2] -> [B].

    A point's embedding is its direction: like an encoder's, not what the density sees.
    """
    return memory.nearest_similarity(polar(1.0, ANGLES), memory.unit_norm(x))
