"""Glow against `normflows`' (PyTorch): scoring and training steps on the CPU."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ecood.errors import InputError
from ecood.flows import Glow
from experiments.speed import timing

__all__ = ["forward_flops", "rows"]

SIZES = ((8, 96), (16, 256))  # depth K, hidden channels h
LEVELS, SHAPE, BATCH = 3, (32, 32, 3), 64
LEARNING_RATE = 1e-4
PRODUCT = 3072  # rows and columns of the matrices whose product is the machine's peak


class Work(NamedTuple):
    """What is timed of a model.

    Attributes:
      forward: computes the log-densities of a batch, without gradients.
      train: takes a training step: loss, gradient, Adam's update.
      parameters: how many the model has.
    """

    forward: Callable[[], Any]
    train: Callable[[], Any]
    parameters: int


def rows() -> list[dict[str, Any]]:
    """Matrix products first: their rates are the peaks that the flows' shares refer to.

    Each size of Glow in float32 and in bfloat16, where the peer's is autocast's, and ours in
    bfloat16 against the peer in float32. The row's `gflops` are ours: the arithmetic of the
    convolutions (three times that of the forward pass for a training step) over the time.

    Raises:
      InputError: if normflows is not installed.
    """
    try:
        import normflows  # noqa: F401  # brings torch
    except ImportError:
        raise InputError(
            "normflows, to compare with, is not installed; run `pip install torch normflows` "
            "(torch from https://download.pytorch.org/whl/cpu, if there is no GPU)."
        ) from None
    products = {dtype: _product(dtype) for dtype in ("float32", "bfloat16")}
    peaks = {dtype: row["ours"] for dtype, row in products.items()}
    glows = [row for depth, width in SIZES for row in _glow(depth, width, peaks)]
    return [*products.values(), *glows]


def forward_flops(depth: int, width: int) -> int:
    """Operations of Glow's convolutions for one image; a multiplication and an addition are two."""
    h, w, c = SHAPE
    total = 0
    for level in range(1, LEVELS + 1):
        positions, channels = (h >> level) * (w >> level), c << (level + 1)
        network = 9 * channels // 2 * width + width**2 + 9 * width * channels
        total += depth * positions * (channels**2 + network)
        if level < LEVELS:
            total += positions * 9 * channels // 2 * channels  # the prior of what is split off
    return 2 * total


def _glow(depth: int, width: int, peaks: dict[str, float]) -> list[dict[str, Any]]:
    images = np.random.default_rng(0).random((BATCH, *SHAPE), np.float32)
    ours = {dtype: _ours(depth, width, images, dtype) for dtype in peaks}
    theirs = {dtype: _theirs(depth, width, images, dtype) for dtype in peaks}
    counts = {"parameters": ours["float32"].parameters}
    counts["peer_parameters"] = theirs["float32"].parameters
    if not 0.95 < counts["parameters"] / counts["peer_parameters"] < 1.05:
        raise RuntimeError(f"the models differ in size: {counts}")
    measured = []
    for work, passes in (("forward", 1), ("train", 3)):
        models = [*ours.values(), *theirs.values()]
        seconds = timing.take_turns(*(getattr(model, work) for model in models))
        float32, bfloat16, peer_float32, peer_bfloat16 = (BATCH / s for s in seconds)
        gflop = passes * forward_flops(depth, width) / 1e9
        for suffix, dtype, peer, rates in (
            ("", "float32", "normflows", (float32, peer_float32)),
            (" bfloat16", "bfloat16", "normflows, autocast to bfloat16", (bfloat16, peer_bfloat16)),
            (" bfloat16 against float32", "bfloat16", "normflows", (bfloat16, peer_float32)),
        ):
            rate = rates[0] * gflop
            what = f"glow {work} K={depth} h={width}{suffix}"
            of_peak = {"gflops": rate, "share_of_peak": rate / peaks[dtype]}
            measured.append(timing.row(what, peer, "images/s", *rates, **of_peak, **counts))
    return measured


def _ours(depth: int, width: int, images: np.ndarray, dtype: str) -> Work:
    model = Glow(SHAPE, depth=depth, levels=LEVELS, width=width, dtype=jnp.dtype(dtype))
    x = jnp.asarray(images)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    optimizer = optax.adam(LEARNING_RATE)
    log_prob = jax.jit(model.apply)

    def loss(params: Any, fixed: Any, x: jax.Array) -> jax.Array:
        return -jnp.mean(model.apply({"params": params, "fixed": fixed}, x))

    @jax.jit(donate_argnums=0)
    def step(state: tuple[Any, Any], fixed: Any, x: jax.Array):
        params, moments = state
        gradient = jax.grad(loss)(params, fixed, x)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), moments

    params = jax.tree.map(jnp.copy, variables["params"])
    state = (params, optimizer.init(params))

    def train() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, variables["fixed"], x))

    return Work(
        forward=lambda: log_prob(variables, x).block_until_ready(),
        train=train,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
    )


def _theirs(depth: int, width: int, images: np.ndarray, dtype: str) -> Work:
    import torch

    torch.manual_seed(0)
    model = _normflows(depth, width)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")

    def forward() -> None:
        with torch.no_grad(), autocast:
            model.log_prob(x, None)

    def train() -> None:
        optimizer.zero_grad()
        with autocast:
            loss = -model.log_prob(x, None).mean()
        loss.backward()
        optimizer.step()

    forward()  # its act-norms take their values from the first batch
    return Work(forward, train, sum(p.numel() for p in model.parameters() if p.requires_grad))


def _normflows(depth: int, width: int) -> Any:
    """Their Glow: the same steps and splits; the priors are Gaussians with learned mean and scale.

    Source: the Glow example of normflows' documentation.
    """
    import normflows as nf

    h, w, c = SHAPE
    priors, merges, flows = [], [], []
    for level in range(LEVELS, 0, -1):  # its order is from the latent to the image
        channels, sides = c << (level + 1), (h >> level, w >> level)
        blocks = [
            nf.flows.GlowBlock(channels, width, split_mode="channel", scale=True)
            for _ in range(depth)
        ]
        flows.append([*blocks, nf.flows.Squeeze()])
        split = channels if level == LEVELS else channels // 2
        priors.append(nf.distributions.DiagGaussian((split, *sides)))
        if level < LEVELS:
            merges.append(nf.flows.Merge())
    return nf.MultiscaleFlow(priors, flows, merges)


def _product(dtype: str) -> dict[str, Any]:
    """The rate of one large matrix product, ours and torch's."""
    import torch

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, PRODUCT, PRODUCT), np.float32)
    ours = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    theirs = [torch.from_numpy(m).to(getattr(torch, dtype)) for m in (a, b)]
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    seconds = timing.take_turns(
        lambda: multiply(*ours).block_until_ready(), lambda: torch.matmul(*theirs)
    )
    gflop = 2 * math.prod((PRODUCT,) * 3) / 1e9
    what = f"matrix product {PRODUCT} x {PRODUCT} x {PRODUCT} {dtype}"
    return timing.row(what, "torch", "GFLOP/s", *(gflop / s for s in seconds))
