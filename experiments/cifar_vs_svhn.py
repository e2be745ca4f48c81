"""CIFAR-10 against SVHN: the likelihood paradox, and its repair by entropy control.

    python -m experiments.cifar_vs_svhn
    python -m experiments.cifar_vs_svhn --data DIRECTORY --train --minutes 30

The benchmark of one pair around one scorer as it is: SPEM in both forms, its two parts and two
controls. Writes `report.json`, `report.md` and `report.png`. Where CIFAR-10 and SVHN are not at
hand, the FashionMNIST and MNIST images in the package stand in; the first line says so.
"""

import argparse
import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecood import data, flows, pairs, score, splits, train
from ecood.cache import Cache
from ecood.detector import Detector, already_fitted
from ecood.errors import InputError
from ecood.evaluation import engine, sets
from ecood.score import unseen
from ecood.score.forms import PAPER
from ecood.score.spem import check_strength
from experiments import figures, report
from experiments.benchmark import published

CURVE_IMAGES = 500  # of each test set, for the curve over lambda
SPEMS = ("spem", "spem_paper", "constant_noise", "shuffled_noise")
CONTROLS = score.constant, score.shuffled
ORDER = (*SPEMS[:2], *engine.PARTS, *SPEMS[2:])


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    names = "experiments.cifar_vs_svhn", __doc__, "runs/cifar_vs_svhn"
    parser = report.parser(*names, "limit", data="auto")
    add = parser.add_argument
    what = "a scorer (a name or a directory) or a flow (a name or a file); default: the shipped"
    add("--flow", help=f"{what} scorer of the ID data set")
    what = "lambda, or auto: chosen on ID images (auto)"
    add("--noise-strength", type=_strength, default="auto", help=what)
    add("--seeds", type=int, default=3, help="noise seeds (default: 3)")
    add("--train", action="store_true", help="train a flow, and an encoder if none is installed")
    add("--minutes", type=float, default=30.0, help="with --train: minutes for the flow (30)")
    return parser


def _strength(text: str) -> float | str:
    """The number, or the text, which `score.fit` refuses if it is not auto."""
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def run(arguments: argparse.Namespace) -> None:
    """Loads, builds, scores, reports."""
    seeds, asked, out = arguments.seeds, arguments.noise_strength, arguments.out
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}; expected at least one noise seed.")
    check_strength(asked)
    pair = data.load(arguments.data, "cifar10", "svhn_cropped", limit=arguments.limit)
    print(f"data: {pair.reason}", flush=True)
    name, ood, notes = pair.id_name, pair.ood_name, [pair.reason]
    scorer, split = build_scorer(arguments, name, pair.source, notes)
    tests = {name: pair.id_test, ood: pair.ood_test}
    tests = {which: unseen.fresh(x, scorer, which, notes) for which, x in tests.items()}
    id_set = sets.IDSet(name, scorer, split, tests, notes)

    cache, key = Cache(out / "scores"), jax.random.key(scorer.seed)
    images = [split.held_out, score.turned(split.held_out), *tests.values()]
    encoder = engine.remembered(cache, name, scorer.encoder, images)
    state = scorer.state.replace(encoder=encoder)
    if asked != "auto":
        state = score.tune(state, key, split.held_out, float(asked))
    seen = engine.along(cache, id_set, state, CURVE_IMAGES)
    strength = float(state.noise_strength)
    papers = engine.strengths(seen)["spem_paper"] if asked == "auto" else strength
    print(f"noise strength: {strength:.4g} ({asked})", flush=True)
    made_of = {"": (state.noise_strength, state.reference, papers)}
    known = detectors(state, papers)
    found = engine.detect(cache, id_set, known, seeds, made_of, together=SPEMS)
    found |= engine.parts(found["spem"])
    rows = pairs.rows(engine.by_pair(id_set, {detector: found[detector] for detector in ORDER}))
    summary = pairs.summarise(rows)
    numbers = {detector: means for (_, _, detector), means in summary.items()}
    for detector, means in numbers.items():
        means["auroc_seeds"] = [row["auroc"] for row in rows if row["detector"] == detector]
    first = {detector: (told[0][name], told[0][ood]) for detector, told in found.items()}
    id_bits, ood_bits = (float(told["bits"].mean()) for told in first["spem"])
    counts = {"n_id_train": len(split.train), "n_id_held_out": len(split.held_out)}
    counts |= {"n_id_test": len(tests[name]), "n_ood_test": len(tests[ood])}
    told = {"id": name, "ood": ood, "source": pair.source, "reason": pair.reason, "notes": notes}
    result = {
        "data": told | counts,
        "noise_strength": strength,
        "noise_strength_setting": asked,
        "paper_noise_strength": papers,
        "encoder": encoder.name,
        "flow": scorer.flow.architecture,
        "bits_per_dim": {"id_test": id_bits, "ood_test": ood_bits},
        "detectors": numbers,
        "curve": np.transpose([score.GRID, *engine.curves(id_set, seen).values()]).tolist(),
    }
    figures.overview(out / "report.png", result, first, tuple(tests.values()), key)
    told = report.paragraphs(page(result), published.page(summary))
    report.write(arguments, result, told, also=["report.png"])


def build_scorer(
    arguments: argparse.Namespace, name: str, source: str, notes: list[str]
) -> tuple[score.Scorer, splits.Split]:
    """What the command line asks for (trained, given, or shipped), and its parts of the images."""
    images, given = data.load_images(source, name, "train"), arguments.flow
    alone = set(flows.shipped()) - set(score.shipped())  # flows that no scorer is named after
    if arguments.train:
        split = splits.as_split(images)
        flow, encoder, bits = train.fit_parts(split, arguments.out, arguments.minutes)
        print(f"{bits:.3f} bits/dim on held-out images", flush=True)
        flows.save(arguments.out / "flow.safetensors", flow, {"bits_per_dim": f"{bits:.4f}"})
    elif given is not None and (pathlib.Path(given).is_file() or given in alone):
        flow, encoder = flows.load(given), score.load(name).encoder
        split = unseen.split_of(images, flow, encoder, None, notes)
    else:
        scorer = score.load(given or name)
        parts = scorer.flow, scorer.encoder, scorer.fitted_on
        return scorer, unseen.split_of(images, *parts, notes)
    print(f"encoder: {encoder.name}; building the memory bank", flush=True)
    scorer = score.fit(flow, encoder, split, noise_strength=arguments.noise_strength)
    scorer.save(arguments.out / "scorer")
    return scorer, split


def detectors(state: score.SPEMState, papers: float) -> dict[str, Detector]:
    """SPEM in both forms as it is fitted, and controls in the recommended form at its lambda."""

    def control(by: Callable) -> Callable[[jax.Array, splits.Split], score.SPEMState]:
        strength = float(state.noise_strength)
        return lambda key, split: score.controlled(state, key, split.held_out, strength, by=by)

    paper = state.replace(form=PAPER, noise_strength=jnp.float32(papers))
    fits = already_fitted(state), already_fitted(paper), *map(control, CONTROLS)
    return {name: Detector(fit, score.detect) for name, fit in zip(SPEMS, fits, strict=True)}


def page(result: Mapping[str, Any]) -> list[str]:
    """The report as Markdown lines."""
    told, bits = result["data"], result["bits_per_dim"]
    body = [
        [report.title(name), report.estimate(m["auroc"], m["auroc_ci"], 4)]
        + [f"{m[key]:.4f}" for key in ("aupr_in", "aupr_out", "fpr95")]
        for name, m in result["detectors"].items()
    ]
    return report.paragraphs(
        f"# {told['id']} (ID) against {told['ood']} (OOD)",
        " ".join(told["notes"]),
        f"{told['n_id_test']} ID and {told['n_ood_test']} OOD test images; lambda and reference "
        f"from {told['n_id_held_out']} held-out ID images. Encoder: {result['encoder']}. lambda = "
        f"{result['noise_strength']:.4g} ({result['noise_strength_setting']}; the paper's form "
        f"{result['paper_noise_strength']:.4g}). Flow: {bits['id_test']:.3f} bits/dim on ID, "
        f"{bits['ood_test']:.3f} on OOD test images.",
        report.table(["detector", "AUROC [95% interval]", "AUPR in", "AUPR out", "FPR95"], body),
        f"Means over noise seeds ({len(result['detectors']['spem']['auroc_seeds'])}); the interval "
        "spans the DeLong intervals of all seeds. OOD is the positive class; FPR95 is the share of "
        "OOD images accepted when 95% of ID images are. Code is b - L alone. Constant and "
        "shuffled noise are the same formula, at the same lambda, with the noise of the mean ID "
        "image or of an ID image drawn at random.",
    )


if __name__ == "__main__":
    report.main(run, build_parser())
