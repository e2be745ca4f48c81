"""Glow of the package normflows: a `MultiscaleFlow` of `GlowBlock`s, as its own examples build it.

Its flows go from latent to data, so levels and steps are in the opposite order; its images are not
centred; and its bases are diagonal Gaussians, one a level, often one a class. Per channel and
without classes they are priors of our `Glow`; else the flow is a `ClassGlow`, whose density is the
mean of the classes' densities.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ecood import torch_file
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.flows.class_glow import ClassGlow
from ecood.flows.glow import Glow
from ecood.flows.published.state import State, bound, kernel, mix, only_shifting, squeezed, stacked

__all__ = ["normflows"]

LOG_SCALE_FACTOR = 3.0  # GlowBase's default


def normflows(model: Any, image_shape: tuple[int, int, int] | None = None) -> Flow:
    """A Glow of the package normflows, as a `Glow` or `ClassGlow` with the same density.

    Args:
      model: the `normflows.MultiscaleFlow`; or its state dict, or a file of it, which do not tell
        its options: they are then taken to be the defaults of `GlowBlock` and `GlowBase`, without
        an initial transform.
      image_shape: (H, W, C); needed where a state dict has per-channel bases only (`GlowBase`).

    Raises:
      InputError: if the file is missing or damaged or calls anything, or the model is another one,
        with the first difference.

    Source: Stimper et al. 2023, "normflows: A PyTorch Package for Normalizing Flows";
    github.com/VincentStimper/normalizing-flows (MIT).
    """
    if isinstance(model, str | os.PathLike):
        return torch_file.read(model, lambda tree: _flow(tree, model, image_shape))
    if isinstance(model, Mapping):
        return _flow(_arrays(model), "the state dict", image_shape)
    if not hasattr(model, "state_dict"):
        raise InputError(
            f"a {type(model).__name__} is no model of normflows; give a MultiscaleFlow, its state "
            "dict or a file of it."
        )
    _check_options(model)
    found = getattr(model.q0[0], "shape", None)
    if image_shape is None and found is not None:
        channels, height, width = found
        image_shape = _image_shape(height, width, channels, len(model.q0))
    return _flow(_arrays(model.state_dict()), "the model", image_shape)


def _arrays(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of PyTorch as arrays; what is an array stays one."""
    return {
        k: np.asarray(v.detach().cpu() if hasattr(v, "detach") else v) for k, v in tensors.items()
    }


def _check_options(model: Any) -> None:
    """Refuses what a state dict does not show."""

    def refuse(what: str, found: Any, known: Any) -> None:
        if found != known:
            raise InputError(f"the model has {what} {found!r}; what can be converted is {known!r}.")

    if type(model).__name__ != "MultiscaleFlow":
        raise InputError(
            f"the model is a {type(model).__name__}; what can be converted is a MultiscaleFlow of "
            "GlowBlocks."
        )
    refuse("transform", model.transform, None)
    for base in model.q0:
        refuse(
            "logscale_factor", getattr(base, "logscale_factor", LOG_SCALE_FACTOR), LOG_SCALE_FACTOR
        )
    for level in model.flows:
        names = [type(flow).__name__ for flow in level]
        refuse("flows", names, ["GlowBlock"] * (len(names) - 1) + ["Squeeze"])
        for block in list(level)[:-1]:
            split, coupling, _ = block.flows[0].flows
            refuse("split_mode", split.mode, "channel")
            if coupling.scale:
                refuse("scale_map", coupling.scale_map, "sigmoid")
            slopes = {getattr(layer, "negative_slope", 0.0) for layer in coupling.param_map.net}
            refuse("leaky", max(slopes), 0.0)
    for merge in model.merges:
        refuse("merge mode", merge.mode, "channel")


def _image_shape(height: int, width: int, channels: int, levels: int) -> tuple[int, int, int]:
    """Of the images of whose last level this is the shape."""
    return height << levels, width << levels, channels >> (levels + 1)


def _flow(tensors: Any, path: str | os.PathLike, image_shape: tuple[int, int, int] | None) -> Flow:
    state = State(tensors, path, "a Glow of normflows")
    for name in list(state.left):
        if name.endswith(".data_dep_init_done"):
            if not np.all(_value(state.left.pop(name))):
                raise state.wrong(f"{name} is 0: no batch has initialised the act-norms")
        elif name.endswith(".eye"):  # an identity
            del state.left[name]
    levels, depth = _count(state, "q0.{}.loc"), _count(state, "flows.0.{}.flows.2.s")
    if not (levels and depth):
        missing = "flows.0.0.flows.2.s" if levels else "q0.0.loc"
        raise state.wrong(f"{missing} is missing")
    first = state.shape("q0.0.loc")
    if "q0.0.loc_logs" not in state and len(first) == 4:
        channels, height, width = first[1:] if first[0] == 1 else first[:3]
        image_shape = _image_shape(height, width, channels, levels)
    if image_shape is None:
        raise InputError(
            f"{path} does not say the size of its images; give image_shape, their height, width "
            "and channels."
        )
    width = (*state.shape("flows.0.0.flows.0.flows.1.param_map.net.0.weight"), 0)[0]

    params, fixed, channels = {}, {}, image_shape[2]
    for level in range(levels):
        theirs = levels - 1 - level
        order, channels = squeezed(np.arange(channels)), 4 * channels
        steps = []
        for step in range(depth):
            name = f"flows.{theirs}.{depth - 1 - step}.flows"
            inputs = order if step == 0 else np.arange(channels)
            centre = 0.5 if level == step == 0 else 0.0  # ours subtracts it first
            steps.append(_step(state, name, channels, width, inputs, centre))
        both = stacked(steps)
        params[f"level_{level}"], fixed[f"level_{level}"] = both["params"], both["fixed"]
        channels //= 1 if theirs == 0 else 2
    sizes = {"image_shape": image_shape, "depth": depth, "levels": levels, "width": width}
    shapes = ClassGlow(**sizes).latent_shapes
    bases = [_base(state, f"q0.{levels - 1 - i}", shape) for i, shape in enumerate(shapes)]
    state.end()

    classes = {len(mean) for mean, _ in bases}
    if len(classes) > 1:
        raise state.wrong(f"its levels have {sorted(classes)} classes, expected the same")
    if all(mean.shape == (1, 1, 1, mean.shape[-1]) for mean, _ in bases):
        *priors, top = bases
        for i, (mean, log_scale) in enumerate(priors):
            params[f"prior_{i}"] = _constant(mean.ravel(), log_scale.ravel())
        params["top_mean"], params["top_log_scale"] = (array.ravel() for array in top)
        return bound(Glow(**sizes), {"params": params, "fixed": fixed})
    module = ClassGlow(**sizes, classes=classes.pop())
    for i, (h, w, c) in enumerate(shapes):
        for name, array in zip((f"mean_{i}", f"log_scale_{i}"), bases[i], strict=True):
            params[name] = np.broadcast_to(array, (module.classes, h, w, c))
    return bound(module, {"params": params, "fixed": fixed})


def _value(tensor: Any) -> np.ndarray:
    return tensor.array() if isinstance(tensor, torch_file.Tensor) else tensor


def _count(state: State, pattern: str) -> int:
    """How many names there are of that pattern, from 0 on."""
    n = 0
    while pattern.format(n) in state:
        n += 1
    return n


def _step(
    state: State, name: str, channels: int, width: int, inputs: np.ndarray, centre: float
) -> dict[str, Any]:
    """The variables of a `GlowStep`; its input has the published channels in the order `inputs`."""
    scale = state.take(f"{name}.2.s", 1, channels, 1, 1).ravel()
    shift = state.take(f"{name}.2.t", 1, channels, 1, 1).ravel()
    params, fixed = mix(_matrix(state, f"{name}.1", channels)[:, inputs])
    return {
        "params": {
            "act_norm": {"bias": centre - shift[inputs], "log_scale": -scale[inputs]},
            "mix": params,
            "coupling": _coupling(state, f"{name}.0.flows.1.param_map.net", channels // 2, width),
        },
        "fixed": {"mix": fixed},
    }


def _matrix(state: State, name: str, channels: int) -> np.ndarray:
    square = (channels, channels)
    if f"{name}.W" in state:
        return state.take(f"{name}.W", *square)
    permutation = state.take(f"{name}.P", *square)
    signs = state.take(f"{name}.sign_S", channels)
    lower = np.tril(state.take(f"{name}.L", *square), -1) + np.eye(channels)
    scale = np.exp(state.take(f"{name}.log_S", channels))
    upper = np.triu(state.take(f"{name}.U", *square), 1) + np.diag(signs * scale)
    return permutation @ lower @ upper


def _coupling(state: State, name: str, half: int, width: int) -> dict[str, Any]:
    """Its sigmoid scales are ours; its shift is subtracted where ours is added."""

    def conv(place: int, inputs: int, outputs: int, size: int) -> dict[str, Any]:
        weight = state.take(f"{name}.{place}.weight", outputs, inputs, size, size)
        return {"kernel": kernel(weight), "bias": state.take(f"{name}.{place}.bias", outputs)}

    layers = {"inner": conv(0, half, width, 3), "middle": conv(2, width, width, 1)}
    if state.shape(f"{name}.4.weight")[0] == half:  # GlowBlock's scale=False
        shift = {key: -array for key, array in conv(4, width, half, 3).items()}
        return layers | {"outer": only_shifting(shift | {"log_gain": np.zeros(half)})}
    outer = conv(4, width, 2 * half, 3)
    halves = {k: np.concatenate([-x[..., 0::2], x[..., 1::2]], axis=-1) for k, x in outer.items()}
    return layers | {"outer": halves | {"log_gain": np.zeros(2 * half)}}


def _base(state: State, name: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-scale of a level's base, [classes, h, w, c]; h = w = 1 if per channel."""
    h, w, c = shape
    pairs = []
    for part in ("loc", "log_scale"):
        if f"{name}.{part}_logs" in state:  # GlowBase
            gain = np.exp(LOG_SCALE_FACTOR * state.take(f"{name}.{part}_logs", 1, c, 1, 1))
            array = state.take(f"{name}.{part}", 1, c, 1, 1) * gain
            if f"{name}.{part}_cc" in state:
                classes = state.shape(f"{name}.{part}_cc")[0]
                array = array + state.take(f"{name}.{part}_cc", classes, c)[..., None, None]
        elif (found := state.shape(f"{name}.{part}"))[0] == 1:  # DiagGaussian
            array = state.take(f"{name}.{part}", 1, c, h, w)
        else:  # ClassCondDiagGaussian
            array = np.moveaxis(state.take(f"{name}.{part}", c, h, w, found[-1]), -1, 0)
        pairs.append(array.transpose(0, 2, 3, 1))
    return pairs[0], pairs[1]


def _constant(mean: np.ndarray, log_scale: np.ndarray) -> dict[str, Any]:
    """A prior of our `Glow` that depends on nothing: a convolution of kernel zero."""
    bias = np.concatenate([mean, log_scale])
    kernel_ = np.zeros((3, 3, len(mean), len(bias)))
    return {"kernel": kernel_, "bias": bias, "log_gain": np.zeros(len(bias))}
