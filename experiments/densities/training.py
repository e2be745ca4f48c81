"""How each density is trained, and what is measured of it after each budget of CPU time."""

import functools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from ecood import flows, models, statistics, train
from ecood.batches import map_images
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.progress import training
from ecood.splits import Split, remember
from experiments import report

CLIP, WARMUP = 10.0, 100  # of the gradient's norm; steps


class Recipe(NamedTuple):
    """How a density is trained, chosen by short runs on held-out ID images of one set."""

    module: Callable[[tuple[int, int, int]], nn.Module]
    batch_size: int
    learning_rate: float


def _recipe(kind: str, batch_size: int, learning_rate: float, **options: Any) -> Recipe:
    return Recipe(functools.partial(train.flow_module, kind, **options), batch_size, learning_rate)


def _glow(shape: tuple[int, int, int]) -> nn.Module:
    """As shipped."""
    width = 96 if shape[-1] == 3 else 64
    return train.flow_module("Glow", shape, depth=8, width=width, dtype="bfloat16")


RECIPES = {
    "Glow": Recipe(_glow, 32, 1.5e-3),
    "TarFlow": _recipe("TarFlow", 16, 4e-3, depth=5, dtype="bfloat16"),
    "Jet": _recipe("Jet", 32, 2e-3, dtype="bfloat16"),
    "PixelCNN": _recipe(
        "PixelCNN", 32, 2e-3, depth=1, levels=2, width=24, mixtures=5, dtype="bfloat16"
    ),
    "ResidualFlow": _recipe("ResidualFlow", 32, 1.5e-3, depth=6, width=96),
}


def trained(
    density: str, split: Split, minutes: Sequence[float], folder: pathlib.Path, *, flip: bool
) -> list[dict[str, Any]]:
    """What the density is after each budget of CPU minutes, ascending, a row each.

    `folder` keeps the rows, the flows and the checkpoints: what is there is not trained again, and
    a larger budget continues. `flip` mirrors half of the images.

    Raises:
      InputError: for a budget that the run there was past before it was asked for, or reached at
        another rate, and for a run of other images, another recipe or another first budget.
    """
    files = {budget: folder / f"{budget:g}.json" for budget in minutes}
    for budget, file in files.items():
        if budget > minutes[0] and file.exists():
            last = json.loads(file.read_text()).get("of_minutes", budget)
            if last != minutes[-1]:
                raise InputError(
                    f"{file} is of a run whose last budget was {last:g} CPU minutes; leave "
                    f"{budget:g} out, or choose another --out."
                )
    _train(density, split, minutes, folder, flip)
    for budget, file in files.items():
        if not file.exists():
            raise InputError(
                f"the run in {folder} was past {budget:g} CPU minutes before they were asked for; "
                "ask for larger budgets, or choose another --out."
            )
    return [json.loads(file.read_text()) for file in files.values()]


def _train(
    density: str, split: Split, minutes: Sequence[float], folder: pathlib.Path, flip: bool
) -> None:
    make, batch_size, rate = RECIPES[density]
    settings = {"batch_size": batch_size, "learning_rate": rate}
    config = train.TrainConfig(minutes=minutes[-1], **settings, clip_norm=CLIP, warmup=WARMUP)
    module = make(split.train.shape[1:])
    given = train.flow_task(module, flip=flip), split.train, config, minutes, folder / "run"
    with training(f"{folder.parent.name}, {density}") as progress:
        for budget, steps, variables in train.fit_budgets(*given, progress):
            if not (folder / f"{budget:g}.json").exists():
                flow = flows.bind(module, variables, remember(split.train))
                flows.save(folder / f"{budget:g}.safetensors", flow)
                last = minutes[-1] if budget > minutes[0] else budget  # what the rate went by
                row = {"minutes": budget, "of_minutes": last, "steps": steps}
                row |= {"batch_size": batch_size}
                report.write_json(folder / f"{budget:g}.json", row | measured(flow, split))


def measured(flow: Flow, split: Split) -> dict[str, Any]:
    """Parameters, bits/dim held out and on as many training images, images a CPU second."""
    key, row = jax.random.key(0), {}
    for part in ("train", "held_out"):
        images = getattr(split, part)[: len(split.held_out)]
        started = time.process_time()
        bits = map_images(statistics.bits, flow, key, images=images)
        seconds = time.process_time() - started  # the second time nothing compiles
        row[part] = float(np.mean(bits, dtype=np.float64))
    size = models.size(flow.variables)
    return row | {"parameters": size, "images_per_second": len(images) / seconds}
