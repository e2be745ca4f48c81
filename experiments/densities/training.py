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
    learning_rate: float


def _recipe(kind: str, learning_rate: float, **options: Any) -> Recipe:
    return Recipe(functools.partial(train.flow_module, kind, **options), learning_rate)


def _glow(shape: tuple[int, int, int]) -> nn.Module:
    """As shipped."""
    width = 96 if shape[-1] == 3 else 64
    return train.flow_module("Glow", shape, depth=8, width=width, dtype="bfloat16")


RECIPES = {
    "Glow": Recipe(_glow, 1.5e-3),
    "TarFlow": _recipe("TarFlow", 4e-3, depth=6, width=80, dtype="bfloat16"),
    "Jet": _recipe("Jet", 2e-3, dtype="bfloat16"),
    "PixelCNN": _recipe(
        "PixelCNN", 2e-3, depth=1, levels=2, width=24, mixtures=5, dtype="bfloat16"
    ),
    "ResidualFlow": _recipe("ResidualFlow", 1.5e-3, depth=6, width=96),
}


def trained(
    density: str,
    split: Split,
    minutes: Sequence[float],
    folder: pathlib.Path,
    *,
    flip: bool,
    batch_size: int = 32,
) -> list[dict[str, Any]]:
    """What the density is after each budget of CPU minutes, ascending, a row each.

    `folder` keeps the rows, the flows and the checkpoints: what is there is not trained again, and
    a larger budget continues. `flip` mirrors half of the images; a step takes `batch_size`.

    Raises:
      InputError: for a budget that the run there was past before it was asked for, or reached at
        another rate, for a run of other images, another recipe or another first budget, and for
        rows whose run is gone.
    """
    _kept(folder, minutes)  # before hours of training
    _train(density, split, minutes, folder, flip, batch_size)
    rows = _kept(folder, minutes)
    if late := [budget for budget in minutes if budget not in rows]:
        raise InputError(
            f"the run in {folder} was past {late[0]:g} CPU minutes before they were asked for; ask "
            "for larger budgets, or choose another --out."
        )
    return list(rows.values())


def _kept(folder: pathlib.Path, minutes: Sequence[float]) -> dict[float, dict[str, Any]]:
    """The rows that are there, by budget, if the run that is asked for would have made them."""
    rows = {}
    for budget in minutes:
        file = folder / f"{budget:g}.json"
        if not file.exists():
            continue
        if not (folder / "run" / "run.json").exists():
            raise InputError(
                f"{file} is there without the run that it is of; remove {folder}, or choose "
                "another --out."
            )
        rows[budget] = json.loads(file.read_text())
        first, last = minutes[0], minutes[-1] if budget > minutes[0] else minutes[0]
        low, high = rows[budget].get("budgets", (first, last))
        if (low, high) != (first, last):
            raise InputError(
                f"{file} was reached with budgets from {low:g} to {high:g} CPU minutes, and "
                f"{first:g} to {last:g} are asked for; leave {budget:g} out, or choose another "
                "--out."
            )
    return rows


def _train(
    density: str,
    split: Split,
    minutes: Sequence[float],
    folder: pathlib.Path,
    flip: bool,
    batch_size: int,
) -> None:
    make, rate = RECIPES[density]
    settings = {"batch_size": batch_size, "learning_rate": rate}
    config = train.TrainConfig(minutes=minutes[-1], **settings, clip_norm=CLIP, warmup=WARMUP)
    module = make(split.train.shape[1:])
    given = train.flow_task(module, flip=flip), split.train, config, minutes, folder / "run"
    with training(f"{folder.parent.name}, {density}") as progress:
        for budget, steps, variables, planned in train.fit_budgets(*given, progress):
            if not (folder / f"{budget:g}.json").exists():
                flow = flows.bind(module, variables, remember(split.train))
                flows.save(folder / f"{budget:g}.safetensors", flow)
                row = {"minutes": budget, "budgets": [minutes[0], planned], "steps": steps}
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
