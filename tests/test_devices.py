import os
import subprocess
import sys

import pytest

PROGRAM = """
import dataclasses, functools, re

import jax, jax.numpy as jnp, numpy as np
from ecood import batches, devices, flows, memory, score, statistics
from tests import small

jax.config.update("jax_numpy_rank_promotion", "raise")
assert jax.device_count() == 8
bank, images = small.images(90), small.images(75, seed=1)
on_one = functools.partial(jax.device_put, device=jax.devices()[0])
close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)

# The bank.
encoder = small.encoder()
embeddings = memory.build(encoder, bank)
close(embeddings, memory.build(on_one(encoder), bank))

# Scores: one trace, each device works on its own rows, and only results cross.
flow, shapes = small.flow(), []

def log_prob(variables, key, x):
    shapes.append(x.shape)
    return flow.replace(variables=variables).log_prob(key, x)

own = flows.Flow(log_prob, flow.variables)
reference = statistics.Reference(jnp.zeros(4), jnp.ones(4))
state = score.SPEMState(own, encoder, embeddings, jnp.float32(0.1), reference)
scorer = score.Scorer(state, small.SHAPE)
many = scorer.detect(images)
assert set(shapes) == {(128, *small.SHAPE)}  # the images, and they perturbed
traced = len(shapes)
assert np.array_equal(scorer.detect(images[:3]).score, many.score[:3]) and len(shapes) == traced
one = dataclasses.replace(scorer, state=on_one(state)).detect(images)
sharded = state.replace(bank=memory.shard(embeddings))
shared = dataclasses.replace(scorer, state=sharded).detect(images)
for part in many._fields:
    close(getattr(many, part), getattr(one, part))
    close(getattr(shared, part), getattr(one, part))

placement = devices.follow(state)
assert placement.count == 8
program = jax.jit(score.detect, out_shardings=placement.everywhere)
arguments = placement.replicate((state, jax.random.key(0)))
batch = jax.device_put(images[:64], placement.rows)
assert batch.addressable_shards[0].data.shape == (8, *small.SHAPE)
compiled = program.lower(*arguments, batch).compile().as_text()
crossing = re.findall(r"= (\\S+) (?:all-|collective-|reduce-scatter)", compiled)
assert crossing and all(shape.startswith("f32[64]") for shape in crossing), crossing

# A batch that cannot be split evenly becomes one that can.
sums = batches.map_images(lambda x: jnp.sum(x, (1, 2, 3), jnp.int32), images=images, batch_size=7)
np.testing.assert_array_equal(sums, images.sum((1, 2, 3)))

# The devices are those of the arguments.
some = devices.share(jax.devices()[6:3:-2])
held = jax.device_put(state, some.everywhere)
assert devices.follow(held) == some
close(dataclasses.replace(scorer, state=held)(images[:5]), one.score[:5])
assert devices.follow(on_one(state)) is None
with jax.default_device(jax.devices()[3]):
    assert devices.follow(state) is None
    assert jnp.asarray(0).devices() == {jax.devices()[3]}
    close(scorer(images[:5]), one.score[:5])
"""


def run_on_eight_devices(program):
    """In a process of its own, as the number of devices is settled when JAX starts."""
    flags = {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | flags,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def test_eight_devices_share_scoring_and_bank_building_and_agree_with_one():
    run_on_eight_devices(PROGRAM)


TRAINING = """
import jax, numpy as np
from ecood.flows import Glow
from ecood.train import TrainConfig, fit_flow
from tests import small
assert jax.device_count() == 8
module, images = Glow(small.SHAPE, depth=1, levels=1, width=4), small.images(200)
config = TrainConfig(steps=25, batch_size=16, warmup=10, eval_every=25)
one, fit_of_one = fit_flow(module, images, config, devices=jax.devices()[:1])
eight, fit_of_eight = fit_flow(module, images, config)
for leaf in jax.tree.leaves(eight.variables):
    assert len(leaf.sharding.device_set) == 8 and leaf.sharding.is_fully_replicated
for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(eight.variables), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
assert abs(fit_of_one.held_out - fit_of_eight.held_out) < 1e-3
"""


@pytest.mark.slow
def test_eight_devices_train_as_one():
    run_on_eight_devices(TRAINING)


DENSITIES = """
import jax, numpy as np
from ecood import devices, flows
from tests import small
assert jax.device_count() == 8
placement = devices.share(jax.devices())
x = np.float32(small.images(16)) / 256
of_patches = (make(small.SHAPE, 2, width=8) for make in (flows.TarFlow, flows.Jet))
for module in (*of_patches, flows.PixelCNN(small.SHAPE, 1, 2, 4)):
    variables = small.moved(jax.jit(module.init)(jax.random.key(0), x), 0.05)
    program = jax.jit(module.apply, out_shardings=placement.rows)
    shared = (placement.replicate(variables), jax.device_put(x, placement.rows))
    compiled = program.lower(*shared).compile()
    assert not any(word in compiled.as_text() for word in ("all-", "collective-", "reduce-scatter"))
    on_one = jax.device_put((variables, x), jax.devices()[0])
    expected = jax.jit(module.apply)(*on_one)
    np.testing.assert_allclose(program(*shared), expected, rtol=1e-4)
"""


@pytest.mark.slow
def test_eight_devices_share_a_density_and_nothing_crosses():
    run_on_eight_devices(DENSITIES)


MESHES = """
import jax, numpy as np
import ecood.score
from ecood import detector, encoders, train
from tests import small

images, split = small.images(20, seed=1), small.split(80, calibration=0.4)
key, flow, pixels = jax.random.key(0), small.flow(), encoders.pixels()
module = train.flow_module("Glow", small.SHAPE, depth=1, width=4)
config = train.TrainConfig(steps=3, batch_size=8)

def results():
    yield (scorer := ecood.score.fit(flow, pixels, split))(images)
    yield scorer.calibrate(small.images(20, seed=2)).calibration
    yield scorer.explain(images[:3]).code_map
    scorer.export("OUT")
    yield ecood.score.load_export("OUT")(images)
    similarity = ecood.score.similarity(pixels)
    yield detector.scores(similarity, similarity.fit(key, split), key, images)
    trained, _ = train.fit_flow(module, split, config)
    yield from jax.tree.leaves(trained.variables)

without = list(results())
mesh = jax.make_mesh((2, 4), ("data", "model"))
assert set(mesh.axis_types) == {jax.sharding.AxisType.Explicit}
with jax.set_mesh(mesh):
    key = jax.random.key(0)  # whose type has the mesh
    for mine, theirs in zip(results(), without, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
    assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh
"""


@pytest.mark.slow
def test_a_mesh_that_the_caller_has_set_changes_nothing(tmp_path):
    run_on_eight_devices(MESHES.replace("OUT", str(tmp_path / "scorer.npz")))
