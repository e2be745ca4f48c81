"""Section (c) of the likelihood gap: the shipped flows on real pairs of image sets."""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ecood.score
from ecood import metrics
from ecood.baselines.codecs import complexity
from ecood.batches import map_images
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.perturb import noise_scale
from ecood.score import Scorer, perturbed_images
from ecood.score.spem import guard
from ecood.theory import bounds, certificate, gap, monte_carlo
from experiments import figures, report
from experiments.benchmark import sets
from experiments.crossing import turns_positive
from experiments.figures import CHOSEN_COLOUR, ID_COLOUR, OOD_COLOUR

STRENGTHS = np.concatenate([[0.0], np.geomspace(0.003, 10.0, 15)])
IMAGES = 500  # of each test set
GREY_LEVEL = 1 / 256  # noise small enough to measure a curvature with
# In float32, 1 - s is a multiple of 2^-24 up to 1 and of 2^-23 up to 2: fewer than 2^25 values.
SCALE_ENTROPY = 25 * math.log(2)  # of the noise scale at one lambda, nats, at most


class Curve(NamedTuple):
    """One pair over lambda, nats a dimension unless said otherwise; [L] each.

    Attributes:
      measured: E_{P'} log p - E_{Q'} log p; NaN where a density has overflown.
      error: its standard error.
      known: the certificate that needs no entropy of Q, only that pixels have 256 levels.
      estimated: the certificate with H(Q) estimated by a lossless code.
      expansion: the second-order prediction of the gap itself.
      auroc: of -log p after noise, [L] in [0, 1].
    """

    measured: np.ndarray
    error: np.ndarray
    known: np.ndarray
    estimated: np.ndarray
    expansion: np.ndarray
    auroc: np.ndarray


class Pair(NamedTuple):
    """What a pair gives besides its curve, nats a dimension."""

    id: str
    ood: str
    curve: Curve
    terms: gap.GapTerms
    ratio: float


def run(
    key: jax.Array, out: pathlib.Path, quick: bool, source: str, imagenet32: str | None
) -> dict[str, Any]:
    """Measures every pair at hand that a scorer is shipped for, draws the figure."""
    pairs, missing = [], []
    limit = 64 if quick else IMAGES
    with jax.enable_x64(False), report.progress_bar(len(ecood.score.shipped()), "sets") as bar:
        for name in ecood.score.shipped():
            for ood in sets.OOD_OF[name]:
                try:
                    images = sets.load_test(source, name, limit)
                    others = sets.load_ood(source, imagenet32, ood, images.shape[1:], limit)
                except InputError as error:
                    missing.append({"ID": name, "OOD": ood, "why": str(error)})
                    continue
                scorer = ecood.score.load(name)
                pairs.append(measure(key, name, ood, scorer, images, others))
            bar.update()
    if not pairs:
        raise InputError(f"no pair of images is at hand: {missing[0]['why']}")
    figure(out / "images.png", pairs)
    tables = [{"caption": CAPTION, "rows": [row(pair) for pair in pairs]}]
    if missing:
        tables.append({"caption": "Pairs whose images are not at hand.", "rows": missing})
    return {
        "title": "(c) Real images",
        "text": TEXT.format(images=limit),
        "figure": "images.png",
        "tables": tables,
    }


TEXT = """The flows of the shipped scorers, {images} test images of each set, noise lambda (1 - s).
The black line is measured. The thin orange one is a prediction: log p(x + sigma z) to second order
in sigma, with each image's curvature measured by noise of one grey level, and no look at what more
noise does. The dashed and dotted lines are certificates, E log p (P perturbed) + a lower bound on
the entropy of Q perturbed. The dashed one *estimates* H(Q) by the mean length of a lossless code
(the shortest of PNG, JPEG 2000 and JPEG XL), which is never below the entropy, so it is no proof;
it pays 25 log 2 nats for the values that the noise scale may take in float32. The dotted one is
proved: it knows of Q only that its pixels have 256 levels, and each image's noise scale. Both drop
KL(Q' || p), which is large for a flow that has never seen Q: the measured gap lies far above them
and turns positive long before it must. Measured gaps and AUROCs take what lies beyond 8 bits/dim by
its logarithm, as the detectors do, since a flow's density may explode under much noise; the
certificates take it as it is. A line ends where a density overflows."""

CAPTION = """Gap in nats a dimension. H(P) and H(Q) are code-length estimates, from above. "Turns
positive" is the smallest lambda from which on the gap is positive as measured; beside it, what the
second-order expansion predicts, and what the two certificates promise. "Noise ratio" is the mean
noise scale on P over that on Q: below 1 the similarity aims the noise at Q."""


def measure(
    key: jax.Array, name: str, ood: str, scorer: Scorer, images: np.ndarray, others: np.ndarray
) -> Pair:
    """The gap and its certificates over lambda."""
    dim = math.prod(images.shape[1:])
    both = (images, others)
    similarity = [scorer.detect(x).similarity for x in both]
    entropies = [
        float(bounds.dequantised_entropy(math.log(2) * dim * np.mean(complexity(x)), dim))
        for x in both
    ]
    path = log_density(scorer.flow)

    def log_density_at(scales: list[np.ndarray]) -> list[np.ndarray]:
        """Nats a dimension of ID and OOD images perturbed at these noise scales."""
        return [
            map_images(path, scorer.flow.variables, key, images=seen).astype(np.float64) / dim
            for seen in zip(both, scales, strict=True)
        ]

    at_rest = log_density_at([np.zeros(len(x), np.float32) for x in both])
    little = log_density_at([np.full(len(x), GREY_LEVEL, np.float32) for x in both])
    # E_z log p(x + sigma z) = log p(x) + sigma^2 curvature + o(sigma^2), see `theory.expansion`.
    curvatures = [(b - a) / GREY_LEVEL**2 for a, b in zip(at_rest, little, strict=True)]
    points = []
    for strength in STRENGTHS:
        scales = [np.asarray(noise_scale(s, strength), np.float32) for s in similarity]
        log_prob = log_density_at(scales)
        raw = float(np.mean(log_prob[0]))
        guarded = [-math.log(2) * (np.asarray(guard(8 - v / math.log(2))) - 8) for v in log_prob]
        means = [monte_carlo.mean(values) for values in guarded]
        overflown = not all(np.isfinite(values).all() for values in log_prob)
        expanded = [
            np.mean(a + scale.astype(np.float64) ** 2 * curvature)
            for a, scale, curvature in zip(at_rest, scales, curvatures, strict=True)
        ]
        known, estimated = perturbed_entropy(scales[1], entropies[1], dim)
        points.append(
            (
                np.nan if overflown else means[0].value - means[1].value,
                jnp.hypot(means[0].error, means[1].error),
                certificate.gap(known / dim, raw),
                certificate.gap(estimated / dim, raw),
                expanded[0] - expanded[1],
                metrics.auroc(*(-values for values in guarded)),
            )
        )
        if strength == 0:
            terms = gap.decompose(*(m.value for m in means), *(h / dim for h in entropies))
    curve = Curve(*(np.array(values, np.float64) for values in zip(*points, strict=True)))
    ratio = float(np.mean(1 - similarity[0]) / np.mean(1 - similarity[1]))
    return Pair(name, ood, curve, terms, ratio)


def perturbed_entropy(scales: np.ndarray, entropy: float, dim: int) -> tuple[float, float]:
    """Lower bounds on H(Y + sigma Z) for dequantised images Y, sigma a function of the image.

    Args:
      scales: sigma of images drawn from Q, float32 [n].
      entropy: H(Y), nats.
      dim: D.

    Returns:
      A bound that makes no use of H(Y), and one that does; nats.

    Source: docs/theory.md. The first is 4.1, the index being the uint8 image, given which Y is
    uniform on a cube: H(Y | I) = -D log 256. The second is 4.2, the index being the value of
    sigma. The nearest bank item serves for neither, as sigma is not a function of it.
    """
    cube = float(bounds.dequantised_entropy(jnp.float32(0), dim))
    known = float(jnp.mean(bounds.fixed_noise(cube, jnp.asarray(scales), dim)))
    with np.errstate(divide="ignore"):
        mean_log_sigma = float(np.mean(np.log(scales)))
    given = float(bounds.indexed_noise_mean(entropy, SCALE_ENTROPY, mean_log_sigma, dim))
    return known, max(known, given)


def log_density(flow: Flow):
    """`(variables, key, (images, noise scales)) -> log p` of the perturbed images, nats [B]."""

    def path(variables: Any, key: jax.Array, seen: tuple[jax.Array, jax.Array]) -> jax.Array:
        images, scales = seen
        return flow.log_prob(variables, key, perturbed_images(key, images, scales))

    return path


def row(pair: Pair) -> dict[str, Any]:
    """One row of the table."""
    curve, terms = pair.curve, pair.terms
    best = int(np.argmax(curve.auroc))
    return {
        "ID": pair.id,
        "OOD": pair.ood,
        "gap before": (float(curve.measured[0]), float(curve.error[0])),
        "H(Q) - H(P)": float(terms.entropy_ood - terms.entropy_id),
        "KL(Q,p) - KL(P,p)": float(terms.kl_ood - terms.kl_id),
        "noise ratio": pair.ratio,
        "turns positive": turns_positive(STRENGTHS, curve.measured),
        "second order": turns_positive(STRENGTHS, curve.expansion),
        "certain if H(Q) is as estimated": turns_positive(STRENGTHS, curve.estimated),
        "proved": turns_positive(STRENGTHS, curve.known),
        "best AUROC": float(curve.auroc[best]),
        "at lambda": float(STRENGTHS[best]),
    }


def figure(path: pathlib.Path, pairs: list[Pair]) -> None:
    """One panel a pair: measured gap, prediction and proof over lambda."""
    drawing, grid = figures.panels(len(pairs), 4.6, 3.8)
    for axes, pair in zip(grid, pairs, strict=True):
        _panel(axes, pair)
    grid[0].legend(fontsize=8, loc="upper left")
    figures.save(drawing, path)


def _panel(axes: Any, pair: Pair) -> None:
    curve, strengths = pair.curve, STRENGTHS[1:]
    measured, error = curve.measured[1:], curve.error[1:]
    axes.semilogx(strengths, measured, "o-", ms=3, color="black", label="measured")
    with np.errstate(invalid="ignore"):
        low, high = measured - 2 * error, measured + 2 * error
    axes.fill_between(strengths, low, high, color="black", alpha=0.15)
    axes.semilogx(
        strengths,
        curve.estimated[1:],
        "--",
        color=CHOSEN_COLOUR,
        label="certain if H(Q) is as estimated",
    )
    axes.semilogx(strengths, curve.expansion[1:], color=OOD_COLOUR, lw=1, label="second order")
    axes.semilogx(strengths, curve.known[1:], ":", color=ID_COLOUR, label="proved")
    for values, colour, style in (
        (curve.measured, "black", "-"),
        (curve.expansion, OOD_COLOUR, "-"),
        (curve.estimated, CHOSEN_COLOUR, "--"),
        (curve.known, ID_COLOUR, ":"),
    ):
        crossing = turns_positive(STRENGTHS, values)
        if crossing:
            axes.axvline(crossing, color=colour, ls=style, lw=0.8)
    axes.axhline(0, color="grey", lw=0.8)
    axes.axhspan(-3, 0, color=OOD_COLOUR, alpha=0.06)
    axes.set(
        title=f"{pair.id} → {pair.ood}", xlabel="noise strength lambda", ylabel="gap, nats/dim",
        ylim=(-3, 4),
    )  # fmt: skip
