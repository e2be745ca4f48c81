"""From a split of in-distribution images to a trained flow or encoder."""

import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood import encoders, flows
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.images import check_images
from ecood.progress import training
from ecood.splits import Split, as_split, remember
from ecood.train.loop import Fit, fit
from ecood.train.segment import TrainConfig
from ecood.train.tasks import encoder_task, flow_task

__all__ = [
    "batch_size",
    "encoder_config",
    "fit_beside_flow",
    "fit_encoder",
    "fit_flow",
    "fit_parts",
    "flow_batch_size",
    "flow_module",
    "levels",
    "usual_encoder",
]


def fit_flow(
    module: nn.Module,
    split: Split | np.ndarray,
    config: TrainConfig,
    directory: str | pathlib.Path | None = None,
    *,
    flip: bool = False,
    **options: Any,
) -> tuple[Flow, Fit]:
    """Trains a flow by maximum likelihood; the held-out value is in bits/dim.

    The module is a flow of `ecood.flows`, or another hashable linen module like them.
    Images, uint8 [N, H, W, C], are split as `ecood.splits.as_split` does; `flip`
    mirrors half of those to train on, where left and right carry no meaning.
    `directory` and `options` (`progress`, `devices`) are as of `fit`.

    Returns the flow, which remembers the fingerprints of `split.train`, and how the run
    ended. Raises `InputError` as `fit`, or for images that the module is not for, or
    that are in two parts.
    """
    split = as_split(split)
    check_images(split.train, getattr(module, "image_shape", None))
    task = flow_task(module, flip=flip)
    fitted = fit(task, split.train, split.held_out, config, directory, **options)
    return flows.bind(module, fitted.variables, trained_on=remember(split.train)), fitted


def fit_encoder(
    split: Split | np.ndarray,
    config: TrainConfig,
    directory: str | pathlib.Path | None = None,
    **options: Any,
) -> tuple[Encoder, Fit]:
    """Trains a compact encoder by contrast, without labels; held out in nats.

    Arguments, results and errors are those of `fit_flow`; `encoder_config` has settings
    that suit. Sides are multiples of 4.
    """
    split = as_split(split)
    height, width, channels = split.train.shape[1:]
    if height % 4 or width % 4:
        raise InputError(
            f"the images are {height} x {width} pixels; the compact encoder needs multiples of 4: "
            "resize them or choose another encoder."
        )
    module = encoders.Compact(channels)
    fitted = fit(encoder_task(module), split.train, split.held_out, config, directory, **options)
    encoder = encoders.compact(module, fitted.variables)
    return encoder.replace(trained_on=remember(split.train)), fitted


def encoder_config(count: int, **settings: Any) -> TrainConfig:
    """What suits the compact encoder, for `count` images; see `TrainConfig`."""
    defaults = {"batch_size": batch_size(count, 256), "learning_rate": 2e-3, "eval_every": 100}
    return TrainConfig(**defaults | settings)


def batch_size(count: int, wanted: int = 64) -> int:
    """`wanted` images a step, or fewer if `count` is, that all devices can share."""
    devices = jax.device_count()
    return max(1, min(wanted, count) // devices) * devices


def flow_batch_size(count: int) -> int:
    """Images a step that suit a flow trained for some minutes on `count` images.

    16 on a CPU, where a step of more takes as much longer and there are fewer; 64 on an
    accelerator, which fewer would not fill.
    """
    return batch_size(count, 16 if jax.default_backend() == "cpu" else 64)


def fit_parts(
    split: Split, directory: str | os.PathLike, minutes: float
) -> tuple[Flow, Encoder, float]:
    """What a scorer needs, with a bar each: flow and encoder, and held-out bits/dim.

    A small Glow, `minutes` long in batches of `flow_batch_size`, and the `usual_encoder`. The same
    call resumes what `directory` keeps.
    """
    folder, shape, count = pathlib.Path(directory), split.train.shape[1:], len(split.train)
    config = TrainConfig(minutes=minutes, batch_size=flow_batch_size(count))
    with training("training the flow") as show:
        given = flow_module("Glow", shape), split, config, folder / "flow_run"
        flow, fitted = fit_flow(*given, progress=show)
    if usual_encoder(shape[-1]) == "efficientnet_lite0":
        return flow, encoders.efficientnet_lite0(), fitted.held_out
    encoder = fit_beside_flow(split, folder / "encoder_run", minutes=minutes)
    return flow, encoder, fitted.held_out


def usual_encoder(channels: int) -> str:
    """Which encoder is taken if none is asked for.

    That of ImageNet for colour images, if it is installed, else the compact one.
    """
    installed = channels == 3 and encoders.efficientnet_lite0_installed()
    return "efficientnet_lite0" if installed else "compact"


def fit_beside_flow(
    split: Split, directory: str | os.PathLike, *, minutes: float | None, **settings: Any
) -> Encoder:
    """A compact encoder, with a bar, trained for a quarter of the `minutes` of its flow.

    The same call resumes what `directory` keeps; for other settings see `encoder_config`.
    """
    if minutes is not None:
        minutes = max(0.5, minutes / 4)
    config = encoder_config(len(split.train), minutes=minutes, **settings)
    with training("training the encoder") as show:
        return fit_encoder(split, config, pathlib.Path(directory), progress=show)[0]


def flow_module(kind: str, image_shape: tuple[int, int, int], **options: Any) -> nn.Module:
    """A flow to train: that of `flows.MODULES` of this name, each option the attribute of its name.

    One of levels has as many as `levels` says, if nothing else is said; `dtype` may be a name.

    Raises:
      InputError: for an attribute that it lacks, or sizes that make no flow.
    """
    make = flows.MODULES[kind]
    for name, value in options.items():
        if name not in make.__dataclass_fields__:
            raise InputError(
                f"{kind} has no attribute {name}; leave {name} {value} out or choose another flow."
            )
    if "levels" in make.__dataclass_fields__ and "levels" not in options:
        options["levels"] = levels(image_shape, make is flows.PixelCNN)
    if isinstance(options.get("dtype"), str):
        options["dtype"] = getattr(jnp, options["dtype"])
    return make(image_shape, **options)


def levels(image_shape: tuple[int, int, int], first_is_whole: bool = False) -> int:
    """L, a flow's levels: 3, or as many as can halve the sides; where none can, they are refused.

    Each level halves them; with `first_is_whole` the first does not, so that odd sides have one.
    """
    height, width, _ = image_shape
    halved = {n: 2 ** (n - first_is_whole) for n in (1, 2, 3)}
    fitting = [n for n, size in halved.items() if height % size == 0 == width % size]
    if not fitting:
        raise InputError(
            f"the images are {height} x {width} pixels; flows need even sides, at best multiples "
            "of 8: resize the images."
        )
    return fitting[-1]
