"""A small flow for densities of the plane, and its training: the model of `gap_plane`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ecood.theory import mixture
from ecood.theory.mixture import Mixture
from experiments import report

__all__ = ["PlaneFlow", "train"]


class Coupling(nn.Module):
    """One coordinate scales and shifts the other."""

    moved: int
    width: int

    @nn.compact
    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Data [B, 2] -> (latent [B, 2], log_det [B])."""
        h = nn.silu(nn.Dense(self.width)(x[:, 1 - self.moved, None]))
        h = nn.silu(nn.Dense(self.width)(h))
        h = nn.Dense(2, kernel_init=nn.initializers.zeros)(h)
        log_scale, shift = 2.0 * jnp.tanh(h[:, 0] / 2.0), h[:, 1]
        z = x.at[:, self.moved].set(x[:, self.moved] * jnp.exp(log_scale) + shift)
        return z, log_scale


class PlaneFlow(nn.Module):
    """Affine couplings in turn and a standard normal, in two dimensions."""

    depth: int = 8
    width: int = 48

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Points [B, 2] -> log-density [B]."""
        total = jnp.zeros(x.shape[0], x.dtype)
        for index in range(self.depth):
            x, log_det = Coupling(index % 2, self.width).forward_and_log_det(x)
            total += log_det
        return total - 0.5 * jnp.sum(x**2, axis=1) - jnp.log(2.0 * jnp.pi)


def train(key: jax.Array, law: Mixture, steps: int) -> Callable[[jax.Array], jax.Array]:
    """Maximum likelihood on fresh draws of the law; returns log p, [B, 2] -> [B]."""
    flow, chunk = PlaneFlow(), 50
    with jax.enable_x64(False):
        law = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), law)
        params = flow.init(key, jnp.zeros((1, 2)))
        optimiser = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
        state = optimiser.init(params)

        def loss(params: Any, x: jax.Array) -> jax.Array:
            return -jnp.mean(flow.apply(params, x))

        def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            params, state = carry
            x, _ = mixture.sample(key, law, 512)
            value, gradient = jax.value_and_grad(loss)(params, x)
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        advance = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))
        carry = (params, state)
        with report.progress_bar(steps, "flow", unit="step") as bar:
            for start in range(0, steps, chunk):
                keys = jax.random.split(jax.random.fold_in(key, start + 1), chunk)
                carry, losses = advance(carry, keys)
                bar.set_postfix(nats=f"{jnp.mean(losses):.3f}", refresh=False)
                bar.update(chunk)
    return lambda x: flow.apply(carry[0], x)
