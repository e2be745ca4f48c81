"""What several processes do together, or one alone: it trains, builds a bank, searches, scores."""

import pathlib
import sys

import jax
import numpy as np

from ecood import devices, flows, hosts, memory, score, statistics, train, weights
from tests import small


def compute(folder: pathlib.Path, out: pathlib.Path) -> None:
    """Trains in `folder` and saves to `out`; of several processes the first alone writes."""
    images, others = small.images(200), small.images(37, seed=1)
    config = train.TrainConfig(steps=10, batch_size=16, warmup=10, eval_every=10)
    module = flows.Glow(small.SHAPE, depth=1, levels=1, width=4)
    flow, fit = train.fit_flow(module, images, config, folder / "run")
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
