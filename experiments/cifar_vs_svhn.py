"""CIFAR-10 against SVHN: the likelihood paradox, and its repair by entropy control.

    python -m experiments.cifar_vs_svhn
    python -m experiments.cifar_vs_svhn --data DIRECTORY --train --minutes 30

Scores ID and OOD test images with SPEM, in the form recommended here and in its paper's, with its
two parts alone (likelihood, similarity) and with two controls of the paper's form (constant noise,
shuffled noise scales), and writes `report.json`, `report.md`
and `report.png`. Where CIFAR-10 and SVHN are not at hand, the FashionMNIST and MNIST images in
the package stand in; the first line and the report say so.
"""

import argparse
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ecood.score
from ecood import data, encoders, flows, metrics, recipes
from ecood.batches import map_images
from ecood.data import ImagePair
from ecood.detector import Detector
from ecood.errors import InputError
from ecood.images import hold_out
from ecood.score import Scorer, SPEMState
from ecood.train import TrainConfig
from experiments import figures, report, train_flow

CURVE = (0.0, *np.geomspace(0.003, 10.0, 15))
CURVE_IMAGES = 500  # of each test set, for the curve


class Scores(NamedTuple):
    """ID and OOD scores of one detector, one row a seed: [S, N_id] and [S, N_ood]."""

    id: np.ndarray
    ood: np.ndarray


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = report.parser("experiments.cifar_vs_svhn", __doc__)
    add = parser.add_argument
    add("--data", default="auto", help="auto, embedded, tfds or a path (default: auto)")
    add(
        "--flow",
        help="a scorer (a name or a directory) or a flow (a name or a file); default: the "
        "shipped scorer of the ID data set",
    )
    add("--noise-strength", default="auto", help="lambda, or auto: chosen on ID images (auto)")
    add("--seeds", type=int, default=3, help="noise seeds (default: 3)")
    add("--limit", type=int, help="use the first LIMIT images of each set only")
    add("--train", action="store_true", help="train a flow, and an encoder if none is installed")
    add("--minutes", type=float, default=30.0, help="with --train: minutes for the flow (30)")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/cifar_vs_svhn"),
        help="the report's folder (default: runs/cifar_vs_svhn)",
    )
    return parser  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Loads, builds, scores, reports."""
    if arguments.seeds < 1:
        raise InputError(f"--seeds is {arguments.seeds}; expected at least one noise seed.")
    pair = data.load(arguments.data, "cifar10", "svhn_cropped", limit=arguments.limit)
    print(f"data: {pair.reason}", flush=True)
    scorer = build_scorer(arguments, pair)
    strength = float(scorer.state.noise_strength)
    print(f"noise strength: {strength:.4g} ({arguments.noise_strength})", flush=True)
    strength_of_paper = strength if arguments.noise_strength != "auto" else "auto"
    paper = tuned(scorer, pair, strength_of_paper, gain=False)
    seen = see(scorer, pair)
    scores, detections = score_all(scorer, paper, seen, arguments.seeds)
    curve = strength_curve(scorer, pair, seen)
    result = {
        "data": {
            "id": pair.id_name,
            "ood": pair.ood_name,
            "source": pair.source,
            "reason": pair.reason,
            "n_id_train": len(pair.id_train),
            "n_id_test": len(pair.id_test),
            "n_ood_test": len(pair.ood_test),
        },
        "noise_strength": strength,
        "noise_strength_setting": arguments.noise_strength,
        "paper_noise_strength": float(paper.noise_strength),
        "encoder": scorer.encoder.name,
        "flow": scorer.flow.architecture,
        "bits_per_dim": {
            "id_test": float(scores["likelihood"].id.mean()),
            "ood_test": float(scores["likelihood"].ood.mean()),
        },
        "detectors": {name: summarise(s) for name, s in scores.items()},
        "curve": curve,
        **report.identify(arguments),
    }
    out = arguments.out
    report.write_json(out / "report.json", result)
    text = markdown(result)
    report.write_text(out / "report.md", text)
    figures.overview(out / "report.png", result, scores, detections, pair, scorer)
    print(text)
    print(f"wrote {out}/report.json, report.md and report.png")


def build_scorer(arguments: argparse.Namespace, pair: ImagePair) -> Scorer:
    """The scorer that the command line asks for: trained, given, or shipped."""
    strength = arguments.noise_strength
    strength = strength if strength == "auto" else _number(strength)
    if not arguments.train and (arguments.flow is None or not _is_flow(arguments.flow)):
        if arguments.flow is None and pair.id_name not in ecood.score.shipped():
            raise InputError(
                f"no scorer for {pair.id_name} is shipped; add --train to train a flow here, or "
                "name a scorer or a flow file with --flow."
            )
        scorer = ecood.score.load(arguments.flow or pair.id_name)
        if strength == "auto":
            return scorer
        return dataclasses.replace(scorer, state=tuned(scorer, pair, strength), calibration=None)
    flow = train_the_flow(arguments, pair) if arguments.train else flows.load(arguments.flow)
    encoder = best_encoder(arguments, pair)
    print(f"encoder: {encoder.name}; building the memory bank", flush=True)
    scorer = ecood.score.fit(flow, encoder, pair.id_train, noise_strength=strength)
    scorer.save(arguments.out / "scorer")
    return scorer


def train_the_flow(arguments: argparse.Namespace, pair: ImagePair) -> flows.Flow:
    """A small Glow on the ID training images, checkpointed under the report's folder."""
    shape = pair.id_train.shape[1:]
    module = flows.Glow(shape, levels=recipes.levels(shape))
    config = TrainConfig(minutes=arguments.minutes, batch_size=32)
    folder = arguments.out / "flow_run"
    fitted, seconds = train_flow.train(module, pair.id_train, config, folder, pair.id_name)
    bits = train_flow.bits(module, fitted, pair.id_train, pair.id_test)
    print(f"trained {fitted.steps} steps in {seconds / 60:.1f} min: {bits} bits/dim", flush=True)
    flow = flows.bind(module, fitted.variables)
    flows.save(arguments.out / "flow.safetensors", flow, {"bits_per_dim": str(bits["test"])})
    return flow


def best_encoder(arguments: argparse.Namespace, pair: ImagePair) -> encoders.Encoder:
    """The shipped scorer's for a flow that is given, else the ImageNet one or a trained one."""
    if not arguments.train and pair.id_name in ecood.score.shipped():
        return ecood.score.load(pair.id_name).encoder
    if pair.id_train.shape[-1] == 3 and encoders.efficientnet_lite0_installed():
        return encoders.efficientnet_lite0()
    minutes = max(0.5, arguments.minutes / 4)
    return recipes.train_encoder(pair.id_train, minutes, arguments.out / "encoder_run")


def tuned(
    scorer: Scorer, pair: ImagePair, noise_strength: float | str, *, gain: bool = True
) -> SPEMState:
    """The scorer's state at another noise strength, or in the paper's form."""
    return ecood.score.tune(
        ecood.score.detection_path(scorer.flow, scorer.encoder),
        ecood.score.noise_path(scorer.flow),
        scorer.state,
        jax.random.key(scorer.seed),
        hold_out(pair.id_train)[1],
        noise_strength=noise_strength,
        gain=gain,
    )


def see(scorer: Scorer, pair: ImagePair) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The test images with their similarities, which no seed and no lambda changes."""
    images = {"id": pair.id_test, "ood": pair.ood_test}
    with report.progress_bar(sum(map(len, images.values())), "similarity") as bar:
        return {
            which: (x, scorer.detect(x, progress=bar.update).similarity)
            for which, x in images.items()
        }


def score_all(
    scorer: Scorer,
    paper: SPEMState,
    seen: dict[str, tuple[np.ndarray, np.ndarray]],
    seeds: int,
) -> tuple[dict[str, Scores], dict[str, ecood.score.Detection]]:
    """Scores of every detector, and SPEM's whole way for the first seed."""
    flow, encoder, state = scorer.flow, scorer.encoder, scorer.state
    onwards = ecood.score.noise_path(flow, scorer.draws, scorer.antithetic)
    images = {which: x for which, (x, _) in seen.items()}
    total = 5 * seeds * sum(map(len, images.values()))
    with report.progress_bar(total, "scoring") as bar:

        def scored(detector: Detector, state: Any, seed: int) -> dict[str, np.ndarray]:
            key = jax.random.key(seed)
            return {
                name: map_images(detector.score, state, key, images=x, progress=bar.update)
                for name, x in images.items()
            }

        def detected(state: SPEMState) -> list[dict[str, ecood.score.Detection]]:
            return [
                {
                    which: map_images(
                        onwards, state, jax.random.key(seed), images=x, progress=bar.update
                    )
                    for which, x in seen.items()
                }
                for seed in range(seeds)
            ]

        detections, papers = detected(state), detected(paper)
        scales = np.concatenate([d.noise_scale for d in papers[0].values()])
        noise = ecood.score.NoiseState(flow.variables, jnp.asarray(scales))
        controls = {
            "likelihood": (ecood.score.likelihood(flow), flow.variables),
            "constant_noise": (ecood.score.constant_noise(flow, encoder), noise),
            "shuffled_noise": (ecood.score.shuffled_noise(flow, encoder), noise),
        }
        runs = {
            name: [{n: d.score for n, d in seed.items()} for seed in every]
            for name, every in (("spem", detections), ("spem_paper", papers))
        }
        runs["similarity"] = [{n: -d.similarity for n, d in detections[0].items()}]
        for name, (detector, control_state) in controls.items():
            runs[name] = [scored(detector, control_state, seed) for seed in range(seeds)]
    controls = ("constant_noise", "shuffled_noise")
    order = ("spem", "spem_paper", "likelihood", "similarity", *controls)
    scores = {
        name: Scores(*(np.stack([seed[which] for seed in runs[name]]) for which in ("id", "ood")))
        for name in order
    }
    return scores, detections[0]


def summarise(scores: Scores) -> dict[str, Any]:
    """Means over the seeds; the interval spans the 95% intervals of all seeds."""
    seeds = [metrics.evaluate(i, o) for i, o in zip(scores.id, scores.ood, strict=True)]
    return {
        "auroc": float(np.mean([m.auroc for m in seeds])),
        "auroc_ci": [min(m.auroc_ci[0] for m in seeds), max(m.auroc_ci[1] for m in seeds)],
        "aupr_in": float(np.mean([m.aupr_in for m in seeds])),
        "aupr_out": float(np.mean([m.aupr_out for m in seeds])),
        "fpr95": float(np.mean([m.fpr95 for m in seeds])),
        "auroc_seeds": [m.auroc for m in seeds],
    }


def strength_curve(
    scorer: Scorer, pair: ImagePair, seen: dict[str, tuple[np.ndarray, np.ndarray]]
) -> list[list[float]]:
    """Lambda, AUROC of SPEM with its reference at that lambda, and AUROC of the paper's form.

    On the first images of each test set; one compiled program for all.
    """
    onwards = ecood.score.noise_path(scorer.flow, scorer.draws, scorer.antithetic)
    key = jax.random.key(scorer.seed)
    held_out = hold_out(pair.id_train)[1][:CURVE_IMAGES]
    sets = [(held_out, scorer.detect(held_out).similarity)]
    sets += [tuple(part[:CURVE_IMAGES] for part in both) for both in seen.values()]
    curve = []
    total = len(CURVE) * sum(len(images) for images, _ in sets)
    with report.progress_bar(total, "curve over lambda") as bar:

        def perturbed(strength: float) -> list[np.ndarray]:
            state = scorer.state._replace(noise_strength=jnp.float32(strength), usual=None)
            return [
                map_images(onwards, state, key, images=x, progress=bar.update).score for x in sets
            ]

        bits = perturbed(0.0)
        for strength in CURVE:
            now = perturbed(strength) if strength else bits
            rows = list(zip(bits, now, (similarity for _, similarity in sets), strict=True))
            usual = ecood.score.reference(*rows[0])
            ours = [ecood.score.combined(*row, usual) for row in rows[1:]]
            curve.append([float(strength), metrics.auroc(*ours), metrics.auroc(*now[1:])])
    return curve


def title(name: str) -> str:
    """A detector's name as a reader would write it."""
    return {"spem": "SPEM", "spem_paper": "SPEM, the paper's form"}.get(
        name, name.replace("_", " ")
    )


def markdown(result: dict[str, Any]) -> str:
    """The report as a page."""
    data_ = result["data"]
    rows = [
        f"| {title(name)} | {m['auroc']:.4f} [{m['auroc_ci'][0]:.4f}, "
        f"{m['auroc_ci'][1]:.4f}] | {m['aupr_in']:.4f} | {m['aupr_out']:.4f} | {m['fpr95']:.4f} |"
        for name, m in result["detectors"].items()
    ]
    seeds = len(result["detectors"]["spem"]["auroc_seeds"])
    bits = result["bits_per_dim"]
    return "\n".join(
        [
            f"# {data_['id']} (ID) against {data_['ood']} (OOD)",
            "",
            data_["reason"],
            "",
            f"{data_['n_id_test']} ID and {data_['n_ood_test']} OOD test images; bank and choice "
            f"of lambda from {data_['n_id_train']} ID training images. Encoder: "
            f"{result['encoder']}. lambda = {result['noise_strength']:.4g} "
            f"({result['noise_strength_setting']}; the paper's form "
            f"{result['paper_noise_strength']:.4g}). "
            f"Flow: {bits['id_test']:.3f} bits/dim on ID, "
            f"{bits['ood_test']:.3f} on OOD test images.",
            "",
            "| detector | AUROC [95% interval] | AUPR in | AUPR out | FPR95 |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"Means over {seeds} noise seeds; the interval spans the DeLong intervals of all "
            "seeds. OOD is the positive class; FPR95 is the share of OOD images accepted when "
            "95% of ID images are. Constant and shuffled noise use the noise scales that the "
            "paper's form gave to the images under test.",
            "",
            f"Command: `{result['command']}`, ecood {result['versions']['ecood']}, jax "
            f"{result['versions']['jax']}, git {result['git_revision']}, {result['date']}.",
            "",
        ]
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--noise-strength is {text!r}; expected a number >= 0 or auto.") from None


def _is_flow(name: str) -> bool:
    """Whether this is a flow alone: a file, or a shipped flow that no scorer is named after."""
    alone = set(flows.shipped()) - set(ecood.score.shipped())
    return pathlib.Path(name).is_file() or name in alone


if __name__ == "__main__":
    report.main(run, build_parser())
