import os
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np

from ecood import memory

PROGRAM = """
import re

import jax, jax.numpy as jnp, numpy as np
from ecood import memory, score
from ecood.errors import InputError
from ecood.memory import search
from tests import small

jax.config.update("jax_numpy_rank_promotion", "raise")
assert len(jax.devices()) == 8
search.CHUNK, search.SMALL = 64, 128

def unit(seed, n, d):
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return jnp.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True))

nearest = jax.jit(memory.nearest_similarity, static_argnames="recall_target")
queries = unit(1, 20, 24)
# Fewer rows than devices; a small bank on each device; a large one.
cases = [(5, "float32", None), (100, "float32", 0.9), (3001, "float32", None)]
for n, dtype, recall_target in [*cases, (3001, "bfloat16", None)]:
    bank = unit(0, n, 24).astype(dtype)
    shared = memory.shard(bank)
    assert len(shared.addressable_shards) == 8
    assert shared.addressable_shards[0].data.shape == (-(-n // 8), 24)
    options = {"recall_target": recall_target}
    np.testing.assert_allclose(
        nearest(shared, queries, **options), nearest(bank, queries, **options), atol=1e-6
    )

in_order = jax.jit(memory.nearest, static_argnums=2)
for found, expected in zip(in_order(shared, queries, 3), in_order(bank, queries, 3), strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-6)

compiled = nearest.lower(shared, queries).compile().as_text()
crossing = re.findall(r"= (\\S+) (all-\\S+|collective-\\S+|reduce-scatter)\\(", compiled)
assert crossing and all(shape.startswith("f32[20]") for shape, _ in crossing), crossing

compressed = memory.compress(unit(0, 100, 24), 30)
on_four = memory.shard(compressed, jax.devices()[:4])
assert len(on_four.bank.addressable_shards) == 4 and on_four.radius == compressed.radius
np.testing.assert_allclose(nearest(on_four, queries), nearest(compressed, queries), atol=1e-6)

try:
    memory.nearest_similarities(shared, queries, 5)
except InputError as error:
    assert "shared out over devices" in str(error)
else:
    raise AssertionError("a sharded bank was searched for more than the nearest item")

detector = score.similarity(small.encoder())
images = small.images(20, seed=1)
key = jax.random.key(0)
state = detector.fit(key, small.split(300))
found = jax.jit(detector.score)(state.replace(bank=memory.shard(state.bank)), key, images)
np.testing.assert_allclose(found, jax.jit(detector.score)(state, key, images), atol=1e-6)
"""


def test_a_bank_shared_out_over_devices_gives_the_same_and_only_scalars_cross():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_on_one_device_sharding_changes_nothing():
    bank = memory.unit_norm(jnp.arange(12.0).reshape(4, 3) - 5)
    shared = memory.shard(bank)
    np.testing.assert_array_equal(shared, bank)
    np.testing.assert_array_equal(
        memory.nearest_similarity(shared, bank), memory.nearest_similarity(bank, bank)
    )
