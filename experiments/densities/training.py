"""Training a density for a budget of CPU time, and what is measured of it then."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood import devices, flows, keys, statistics, train
from ecood.batches import map_images
from ecood.cache import digest
from ecood.flows import Flow
from ecood.progress import training
from ecood.splits import Split, remember
from ecood.train import segment
from ecood.train.checkpoints import Checkpoints
from experiments import report

SAVED = 60.0  # CPU seconds between checkpoints
CLIP, WARMUP = 10.0, 100  # of the gradient's norm; steps


class Recipe(NamedTuple):
    """How a density is trained, chosen by short runs on held-out ID images."""

    module: Callable[[tuple[int, int, int]], nn.Module]
    batch_size: int
    learning_rate: float


def _glow(shape: tuple[int, int, int]) -> nn.Module:
    """As shipped."""
    width = 96 if shape[-1] == 3 else 64
    return flows.Glow(shape, 8, train.levels(shape), width, jnp.bfloat16)


def _tar_flow(shape: tuple[int, int, int]) -> nn.Module:
    return flows.TarFlow(shape, dtype=jnp.bfloat16)


def _pixel_cnn(shape: tuple[int, int, int]) -> nn.Module:
    return flows.PixelCNN(shape, depth=1, levels=2, width=24, mixtures=5, dtype=jnp.bfloat16)


def _residual_flow(shape: tuple[int, int, int]) -> nn.Module:
    return flows.ResidualFlow(shape, 6, train.levels(shape), 96)


RECIPES = {
    "Glow": Recipe(_glow, 32, 1.5e-3),
    "TarFlow": Recipe(_tar_flow, 32, 2e-3),
    "PixelCNN": Recipe(_pixel_cnn, 32, 2e-3),
    "ResidualFlow": Recipe(_residual_flow, 32, 1.5e-3),
}


def trained(
    density: str, split: Split, minutes: Sequence[float], folder: pathlib.Path, *, flip: bool
) -> list[dict[str, Any]]:
    """What the density is after each budget of CPU minutes, ascending, a row each.

    `folder` keeps the rows, the flows and the checkpoints: what is there is not trained again, and
    a larger budget continues. `flip` mirrors half of the images.
    """
    files = [folder / f"{budget:g}.json" for budget in minutes]
    if not all(file.exists() for file in files):
        _train(density, split, minutes, folder, flip)
    return [json.loads(file.read_text()) for file in files]


def _train(
    density: str, split: Split, minutes: Sequence[float], folder: pathlib.Path, flip: bool
) -> None:
    make, batch_size, rate = RECIPES[density]
    settings = {"batch_size": batch_size, "learning_rate": rate}
    settings |= {"clip_norm": CLIP, "warmup": WARMUP}
    config = train.TrainConfig(minutes=minutes[-1], **settings)
    module, placement = make(split.train.shape[1:]), devices.share(jax.devices()[:1])
    task = train.flow_task(module, flip=flip)
    run = {"task": task.name, "images": digest(split), **dataclasses.asdict(config)}
    del run["minutes"]  # more of them continue the run
    with (
        keys.same_bits(),
        Checkpoints(folder / "run", run) as checkpoints,
        training(f"{folder.parent.name}, {density}") as progress,
    ):
        first = segment.make_initial_state(task, config, placement)(split.train[:256])
        state, spent = checkpoints.restore((first, placement.replicate(np.float32(0))))
        spent, resident = float(spent), placement.replicate(split.train)
        advance = segment.make_segment(task, config, placement, segment.STEPS)
        advance = advance.lower(state, resident).compile()
        saved = spent
        for budget in minutes:
            if budget > minutes[0] and int(state.total_steps) == 0:  # from here the rate falls
                total = np.int32(int(state.step) * minutes[-1] / minutes[0])
                state = state._replace(total_steps=placement.replicate(total))
            while spent < 60 * budget:
                started = time.process_time()
                state, told = jax.block_until_ready(advance(state, resident))
                spent += time.process_time() - started
                record = {"step": int(state.step), "loss": float(told["loss"])}
                progress(record | {"steps": segment.STEPS, "total_steps": int(state.total_steps)})
                if spent >= min(saved + SAVED, 60 * budget):
                    checkpoints.append_log(record | {"cpu_seconds": spent})
                    checkpoints.save(record["step"], (state, np.float32(spent)))
                    saved = spent
            if not (folder / f"{budget:g}.json").exists():
                flow = flows.bind(module, segment.averaged(state), remember(split.train))
                flows.save(folder / f"{budget:g}.safetensors", flow)
                row = {"minutes": budget, "steps": int(state.step), "batch_size": batch_size}
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
    size = sum(leaf.size for leaf in jax.tree.leaves(flow.variables["params"]))
    return row | {"parameters": size, "images_per_second": len(images) / seconds}
