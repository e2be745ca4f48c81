"""What several processes do together, or one alone: it trains, builds a bank, searches, scores."""

import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecood import devices, hosts, memory, score, statistics, train, weights
from tests import small


class Gaussian(nn.Module):
    """A density that starts from the images that it is given, and compiles in no time."""

    image_shape: tuple[int, int, int] = small.SHAPE

    @nn.compact
    def __call__(self, x):
        mean = self.param("mean", lambda key: jnp.mean(x, axis=0))
        log_scale = self.param("log_scale", lambda key: jnp.log(jnp.std(x, axis=0)))
        nats = 0.5 * ((x - mean[None]) / jnp.exp(log_scale)[None]) ** 2 + log_scale[None]
        return -jnp.sum(nats, axis=(1, 2, 3))

    def log_prob(self, x, train=False):
        return self(x)


def compute(folder: pathlib.Path, out: pathlib.Path) -> None:
    """Trains in `folder` and saves to `out`; of several processes the first alone writes."""
    images, others = small.images(200), small.images(37, seed=1)
    config = train.TrainConfig(steps=10, batch_size=16, warmup=10, eval_every=10)
    flow, fit = train.fit_flow(Gaussian(), images, config, folder / "run")
    encoder = small.encoder()
    bank = memory.build(encoder, images[:99])
    shared = memory.shard(bank)
    assert len(shared.addressable_shards) == 1
    assert len(shared.sharding.device_set) == jax.process_count()
    reference = statistics.Reference(np.zeros(4, np.float32), np.ones(4, np.float32))
    state = score.SPEMState(flow, encoder, bank, np.float32(0.1), reference)
    assert devices.follow(state) == devices.share(jax.devices()) or len(jax.devices()) == 1
    found = {"bank": np.asarray(bank), "held_out": np.float32(fit.held_out)}
    detected = score.Scorer(state.replace(bank=shared), small.SHAPE).detect(others)
    found |= detected._asdict()
    weights.save(out / "found.safetensors", found)


if __name__ == "__main__":
    with hosts.together("program"):
        given = pathlib.Path(sys.argv[1])
        compute(given, given / "second" if jax.process_index() else given)
