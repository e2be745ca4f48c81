"""Glow of y0ast/Glow-PyTorch: its checkpoints hold the same density as a `Glow` of ours.

What differs is the form. Its couplings' networks have act-norms, which are folded into kernels and
biases here; their outputs alternate shift and scale; the channels of a squeeze are in another
order; and the 1x1 convolutions have LU factors or none, from which ours get a rotation and a
triangle. Its pixels are u/256 - 1/2, as inside of ours.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ecood import torch_file
from ecood.errors import InputError, check_regular, check_whole
from ecood.flows import Flow
from ecood.flows.glow import Glow
from ecood.flows.published.state import State, bound, kernel, mix, only_shifting, squeezed, stacked
from ecood.words import number_of

__all__ = ["glow_pytorch"]

# What the density depends on, and the values that are known.
KNOWN = {
    "K": int,
    "L": int,
    "hidden_channels": int,
    "flow_permutation": ("invconv", "reverse"),
    "flow_coupling": ("affine", "additive"),
    "LU_decomposed": (True, False),
    "learn_top": (True, False),
    "y_condition": (False,),
}


def glow_pytorch(path: str | os.PathLike, hparams: str | os.PathLike | Mapping[str, Any]) -> Flow:
    """A Glow that y0ast/Glow-PyTorch trained, as a `Glow` with the same density.

    Args:
      path: the checkpoint, e.g. `glow_affine_coupling.pt`.
      hparams: the `hparams.json` beside it, or what it holds.

    Raises:
      InputError: if a file is missing or damaged or calls anything, if the hyper-parameters are
        not those of the checkpoint, with the first difference, or if they are not supported:
        class conditions, and shuffled channels, whose order the checkpoint does not have.

    Source: Kingma & Dhariwal 2018, "Glow"; github.com/y0ast/Glow-PyTorch (MIT), model.py and
    modules.py.
    """
    settings = _settings(hparams)
    return torch_file.read(path, lambda tree: _flow(tree, path, settings))


def _settings(hparams: str | os.PathLike | Mapping[str, Any]) -> Mapping[str, Any]:
    found, where = hparams, "the hyper-parameters"
    if not isinstance(hparams, Mapping):
        where = str(hparams)
        check_regular(hparams)
        try:
            found = json.loads(pathlib.Path(hparams).read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{hparams} cannot be read as JSON ({error}); give the hparams.json that was "
                "saved beside the checkpoint."
            ) from error
    for name, known in KNOWN.items():
        value = found.get(name) if isinstance(found, Mapping) else None
        if known is int:
            check_whole(f"{where}: {name}", value)
        elif value not in known:
            names = " or ".join(map(repr, known))
            raise InputError(f"{where}: {name} is {value!r}; what can be converted is {names}.")
    return found


def _flow(tree: Any, path: str | os.PathLike, settings: Mapping[str, Any]) -> Flow:
    if isinstance(tree, Mapping) and isinstance(tree.get("model"), Mapping):
        tree = tree["model"]  # saved with its optimizer
    state = State(tree, path, "a Glow of Glow-PyTorch with these hyper-parameters")
    depth, levels = settings["K"], settings["L"]
    _, double, height, width = (*state.shape("prior_h"), 0, 0, 0)[:4]
    top = double // 2
    image_shape = (height << levels, width << levels, top >> (levels + 1))
    if image_shape[2] << (levels + 1) != top:
        made = number_of(levels, "level does", "levels do")
        raise state.wrong(f"prior_h has {double} channels, which {made} not make")
    if state.take("prior_h", 1, double, height, width).any():
        raise state.wrong("prior_h is not zero")
    module = Glow(image_shape, depth, levels, settings["hidden_channels"])

    params, fixed, layer, channels = {}, {}, 0, image_shape[2]
    for level in range(levels):
        order, channels = squeezed(np.arange(channels)), 4 * channels
        steps = []
        for step in range(depth):
            layer += 1  # the squeeze is a layer, too
            inputs = order if step == 0 else np.arange(channels)
            steps.append(_step(state, f"flow.layers.{layer}", channels, inputs, settings))
        both = stacked(steps)
        params[f"level_{level}"], fixed[f"level_{level}"] = both["params"], both["fixed"]
        layer += 1
        if level < levels - 1:
            name, channels = f"flow.layers.{layer}.conv", channels // 2
            params[f"prior_{level}"] = _zero_conv(state, name, channels, 2 * channels)
            layer += 1
    params["top_mean"], params["top_log_scale"] = _top(state, channels, settings["learn_top"])
    state.end()
    return bound(module, {"params": params, "fixed": fixed})


def _step(
    state: State, name: str, channels: int, inputs: np.ndarray, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables of a `GlowStep`; its input has the published channels in the order `inputs`."""
    bias, log_scale = _act_norm(state, f"{name}.actnorm", channels)
    matrix = _matrix(state, f"{name}.invconv", channels, settings)
    params, fixed = mix(matrix[:, inputs])
    return {
        "params": {
            "act_norm": {"bias": bias[inputs], "log_scale": log_scale[inputs]},
            "mix": params,
            "coupling": _coupling(state, f"{name}.block", channels // 2, settings),
        },
        "fixed": {"mix": fixed},
    }


def _act_norm(state: State, name: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        state.take(f"{name}.{part}", 1, channels, 1, 1).ravel() for part in ("bias", "logs")
    )


def _matrix(state: State, name: str, channels: int, settings: Mapping[str, Any]) -> np.ndarray:
    square = (channels, channels)
    if settings["flow_permutation"] == "reverse":
        return np.eye(channels)[::-1]
    if not settings["LU_decomposed"]:
        return state.take(f"{name}.weight", *square)
    permutation = state.take(f"{name}.p", *square)
    signs = state.take(f"{name}.sign_s", channels)
    lower = state.take(f"{name}.lower", *square)
    scale = np.exp(state.take(f"{name}.log_s", channels))
    upper = np.triu(state.take(f"{name}.upper", *square), 1) + np.diag(signs * scale)
    return permutation @ (np.tril(lower, -1) + np.eye(channels)) @ upper


def _coupling(state: State, name: str, half: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    width = settings["hidden_channels"]
    layers = {
        "inner": _conv(state, f"{name}.0", half, width, 3),
        "middle": _conv(state, f"{name}.2", width, width, 1),
    }
    if settings["flow_coupling"] == "affine":
        return layers | {"outer": _zero_conv(state, f"{name}.4", width, 2 * half)}
    shift = _zero_conv(state, f"{name}.4", width, half, alternate=False)
    return layers | {"outer": only_shifting(shift)}


def _conv(state: State, name: str, inputs: int, outputs: int, size: int) -> dict[str, Any]:
    """A convolution and its act-norm, as a convolution with a bias."""
    weight = state.take(f"{name}.conv.weight", outputs, inputs, size, size)
    bias, log_scale = _act_norm(state, f"{name}.actnorm", outputs)
    scale = np.exp(log_scale)
    return {"kernel": kernel(weight) * scale, "bias": bias * scale}


def _zero_conv(
    state: State, name: str, inputs: int, outputs: int, *, alternate: bool = True
) -> dict[str, Any]:
    """A convolution with a gain; outputs that alternate between two things become two halves."""
    weight = kernel(state.take(f"{name}.conv.weight", outputs, inputs, 3, 3))
    bias = state.take(f"{name}.conv.bias", outputs)
    log_gain = state.take(f"{name}.logs", outputs, 1, 1).ravel()
    order = np.arange(outputs)
    if alternate:
        order = np.concatenate([order[0::2], order[1::2]])
    return {"kernel": weight[..., order], "bias": bias[order], "log_gain": log_gain[order]}


def _top(state: State, channels: int, learned: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-scale of the last level: a convolution of nothing but zeros, so its bias."""
    if not learned:
        return np.zeros(channels), np.zeros(channels)
    layer = _zero_conv(state, "learn_top_fn", 2 * channels, 2 * channels, alternate=False)
    mean, log_scale = np.split(layer["bias"] * np.exp(3 * layer["log_gain"]), 2)
    return mean, log_scale
