"""Residual Flow of rtqichen/residual-flows: a `ResidualFlow` of ours that estimates its density.

What differs is the form. Its act-norms stand before and after each block, ours before each and
after the last; its kernels are divided by their norms at each pass, here once; its first block has
no activation before its first convolution, which is a LipSwish of slope parameter zero, x / 2.2,
before a kernel 2.2 times as large; and the channels of a squeeze are in another order.
"""

import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg

from ecood import torch_file
from ecood.convolution import conv
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.flows.published.state import State, bound, kernel, squeezed, stacked
from ecood.flows.residual import ResidualFlow

__all__ = ["residual_flows"]

# Options of its train_img.py that the density depends on, its defaults first, and what is known.
KNOWN = {
    "task": ("density",),
    "block": ("resblock",),
    "kernels": ("3-1-3",),
    "act": ("swish",),
    "vnorms": ("2222",),
    "learn_p": (False,),
    "factor_out": (False,),
    "squeeze_first": (False,),
    "first_resblock": (True,),
    "preact": (True,),
    "fc": (False,),
    "fc_end": (True, False),
    "actnorm": (True,),
    "fc_actnorm": (False,),
    "batchnorm": (False,),
    "quadratic": (False,),
    "padding": (0,),
    "nbits": (8,),
}
CHANNELS = {"cifar10": 3, "svhn": 3, "imagenet32": 3, "imagenet64": 3, "mnist": 1}
TERMS = 20  # of the power series that its evaluation always computes
DENSE = 4  # fully connected blocks at the end
NO_ACTIVATION = -200.0  # softplus of it is 0 in float32, and LipSwish is then x / LINEAR
LINEAR = 2.2
TOLERANCE = 1e-5  # relative, of a squared norm


def residual_flows(path: str | os.PathLike) -> Flow:
    """A Residual Flow that rtqichen/residual-flows trained, as a `ResidualFlow`.

    `log_prob` estimates the published density without bias, as its evaluation does, of the averaged
    weights: twenty terms of the power series and a random number of reweighted further ones.

    Args:
      path: the checkpoint, e.g. `cifar10_resflow_16-16-16.pth`.

    Raises:
      InputError: if the file is missing or damaged or calls anything, or holds another model, with
        the first difference, or one of an architecture that is not supported, by its option.

    Source: Chen et al. 2019, "Residual Flows for Invertible Generative Modeling";
    github.com/rtqichen/residual-flows (MIT), train_img.py and resflow.py.
    """
    return torch_file.read(path, lambda tree: _flow(tree, path))


def _flow(tree: Any, path: str | os.PathLike) -> Flow:
    if not (isinstance(tree, Mapping) and {"args", "ema"} <= set(tree)):
        raise InputError(
            f"{path} holds no `args` and `ema`, as checkpoints of residual-flows do; give a file "
            "that its train_img.py saved."
        )
    settings = _attributes(tree["args"])
    module = _module(settings, path)
    averaged = _attributes(tree["ema"]).get("shadow_params")
    state = State(averaged, path, "a Residual Flow with the options that it was trained with")
    for name in list(state.left):
        if name.endswith((".geom_p", ".lamb")):  # of the random number of terms in training
            del state.left[name]
    variables = _variables(state, module, settings)
    state.end()
    return bound(module, {"params": variables})


def _attributes(thing: Any) -> dict[str, Any]:
    return dict(thing) if isinstance(thing, Mapping) else dict(getattr(thing, "__dict__", {}))


def _module(settings: Mapping[str, Any], path: str | os.PathLike) -> ResidualFlow:
    for name, known in KNOWN.items():
        value = settings.get(name, known[0])
        if value not in known:
            names = " or ".join(map(repr, known))
            raise InputError(
                f"{path} was trained with {name} {value!r}; what can be converted is {names}."
            )
    if settings.get("data") not in CHANNELS:
        raise InputError(
            f"{path} was trained on {settings.get('data')!r}; what can be converted is "
            f"{', '.join(CHANNELS)}."
        )
    try:
        blocks = [int(number) for number in settings["nblocks"].split("-")]
        side, width = int(settings["imagesize"]), int(settings["idim"])
        dense_width, coefficient = int(settings.get("fc_idim", 128)), float(settings["coeff"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say its sizes ({type(error).__name__}: {error}); give a file that "
            "train_img.py of residual-flows saved."
        ) from None
    levels = min(len(blocks), int(math.log2(max(side, 2))) - 1)  # down to sides of 4
    if len(set(blocks)) > 1 or not 0 < coefficient < 1:
        raise InputError(
            f"{path} has nblocks {settings['nblocks']} and coeff {coefficient}; what can be "
            "converted is as many blocks at each level, and a coefficient between 0 and 1."
        )
    return ResidualFlow(
        image_shape=(side, side, CHANNELS[settings["data"]]),
        depth=blocks[0],
        levels=levels,
        width=width,
        margin=1e-6 if settings["data"] == "mnist" else 0.05,
        terms=TERMS,
        squeeze_first=False,
        dense=DENSE if settings.get("fc_end", True) else 0,
        dense_width=dense_width,
        settled=True,
        unbiased=True,
    )


def _variables(state: State, module: ResidualFlow, settings: Mapping[str, Any]) -> dict[str, Any]:
    side, _, channels = module.image_shape
    coefficient, params = float(settings["coeff"]), {}
    order = np.arange(channels)
    act_norm = _act_norm(state, "transforms.0.chain.1", order)
    for level in range(module.levels):
        steps, chain = [], f"transforms.{level}.chain"
        for block in range(module.depth):
            place = 2 * block + (2 if level == 0 else 0)
            net = _net(
                state,
                f"{chain}.{place}.nnet",
                order,
                side,
                module.width,
                coefficient,
                active=bool(level or block),
            )
            steps.append({"act_norm": act_norm, "net": net})
            act_norm = _act_norm(state, f"{chain}.{place + 1}", order)
        params[f"level_{level}"] = stacked(steps)
        if level < module.levels - 1:
            order, side = squeezed(order), side // 2
            act_norm = {name: np.tile(x, 4) for name, x in act_norm.items()}
    if module.dense:
        rows, columns = np.arange(side)[:, None, None] * side, np.arange(side)[None, :, None]
        act_norm = {name: np.tile(x, side * side) for name, x in act_norm.items()}
        order = (order[None, None] * side * side + rows + columns).ravel()
        steps = []
        for block in range(module.dense):
            place = 2 * (module.depth + block) + (2 if module.levels == 1 else 0)
            name = f"{chain}.{place}.nnet.nnet"
            net = _net(state, name, order, None, module.dense_width, coefficient, active=True)
            steps.append({"act_norm": act_norm, "net": net})
            act_norm = _act_norm(state, f"{chain}.{place + 1}.fc_module", order)
        params["dense_steps"] = stacked(steps)
    return params | {"act_norm": act_norm}


def _act_norm(state: State, name: str, order: np.ndarray) -> dict[str, Any]:
    bias, log_scale = (state.take(f"{name}.{part}", len(order)) for part in ("bias", "weight"))
    return {"bias": bias[order], "log_scale": log_scale[order]}


def _net(
    state: State,
    name: str,
    order: np.ndarray,
    side: int | None,
    width: int,
    coefficient: float,
    *,
    active: bool,
) -> dict[str, Any]:
    """The variables of a `LipschitzNet` on images of `side`, or fully connected without one.

    Without `active` there is nothing before the first convolution.
    """
    channels, params = len(order), {}
    layers = [(channels, width, 3), (width, width, 1), (width, channels, 3)]
    for i, (inputs, outputs, size) in enumerate(layers):
        place = 2 * i + active  # LipSwish and convolution in turn
        window = () if side is None else (size, size)
        weight = state.take(f"{name}.{place}.weight", outputs, inputs, *window)
        bias = state.take(f"{name}.{place}.bias", outputs)
        weight = kernel(weight.reshape(outputs, inputs, *(window or (1, 1))))
        weight = weight / max(1.0, _norm(weight, side) / coefficient)
        if i or active:
            (beta,) = state.take(f"{name}.{place - 1}.beta", 1)
        else:
            beta, weight = NO_ACTIVATION, LINEAR * weight
        if i == 0:
            weight = weight[:, :, order]
        if i == 2:
            weight, bias = weight[..., order], bias[order]
        params |= {f"beta_{i}": beta, f"conv_{i}": {"kernel": weight, "bias": bias}}
    return params


def _norm(weight: np.ndarray, side: int | None) -> float:
    """The largest singular value of a convolution [k, k, C_in, C_out] on images of that side.

    By Lanczos on the operator's square, from whichever of its two ends has fewer dimensions.
    """
    if weight.shape[0] == 1:
        return float(np.linalg.norm(weight[0, 0], 2))
    if weight.shape[2] > weight.shape[3]:  # the transposed operator has the same norm
        weight = weight[::-1, ::-1].swapaxes(2, 3)
    shape = (side, side, weight.shape[2])
    square = functools.partial(_square, jnp.asarray(weight, jnp.float32))

    def product(vector: np.ndarray) -> np.ndarray:
        return np.asarray(square(jnp.float32(vector.reshape(1, *shape)))).ravel()

    size = math.prod(shape)
    operator = scipy.sparse.linalg.LinearOperator((size, size), product, dtype=np.float32)
    start = np.random.default_rng(0).normal(size=size).astype(np.float32)
    (largest,) = scipy.sparse.linalg.eigsh(
        operator, k=1, which="LA", v0=start, tol=TOLERANCE, return_eigenvectors=False
    )
    return math.sqrt(largest)


@jax.jit
def _square(weight: jax.Array, x: jax.Array) -> jax.Array:
    return conv(conv(x, weight), weight[::-1, ::-1].swapaxes(2, 3))
