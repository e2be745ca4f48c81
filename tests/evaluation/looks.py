"""Images of a Gaussian law and others that are likelier than they are, over lambda."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ecood import flows, memory, score
from ecood.evaluation import gap
from tests import small

DIM = math.prod(small.SHAPE)


def log_prob(variables, key, x):
    """N(0.5, 0.1^2) for every pixel: a density whose expansion is exact."""
    del key
    scale = variables["scale"]
    each = -0.5 * ((x - 0.5) / scale) ** 2 - jnp.log(scale * jnp.sqrt(2 * jnp.pi))
    return jnp.sum(each, axis=(1, 2, 3))


def seen(strengths, copies=1):
    """The ID images and the others, by a bank that is there `copies` times."""
    flow = flows.Flow(log_prob, {"scale": jnp.float32(0.1)})
    train, test = (small.images(n, seed=n) // 4 + 96 for n in (100, 60))
    bank = jnp.tile(memory.build(small.encoder(), train), (copies, 1))
    state = score.SPEMState(flow, small.encoder(), bank, jnp.float32(0), None)
    flat = np.full((60, *small.SHAPE), 128, np.uint8)  # likelier than any ID image: the paradox
    flat[:, ::2] += np.random.default_rng(0).integers(0, 9, flat[:, ::2].shape, np.uint8)
    return [gap.see(jax.random.key(0), state, x, strengths) for x in (test, flat)]
