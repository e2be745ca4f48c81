import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ecood import baselines
from ecood.baselines.fisher import FisherState, layer_norms
from ecood.baselines.gradients import parameters
from ecood.detector import detections, scores
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.statistics import dequantised
from tests.baselines import tiny

KEY = jax.random.key(6)
SCALE = np.linspace(0.2, 0.5, tiny.D)


def gradients(images):
    """Of log p in the Gaussian's mean and scale, [N, 64] each, in float64."""
    x = np.asarray(dequantised(KEY, jnp.asarray(images)), np.float64).reshape(len(images), -1)
    return (x - 0.45) / SCALE**2, (x - 0.45) ** 2 / SCALE**3 - 1 / SCALE


def test_joint_density_of_the_layers_log_norms():
    split, images = tiny.split(400), np.concatenate([tiny.images(6, 1), tiny.hard_images()])
    detector = baselines.fisher(tiny.gaussian(SCALE))
    state = detector.fit(KEY, split)

    def features(images):
        return np.stack([np.log(np.sum(g**2, axis=1)) for g in gradients(images)], axis=1)

    fitted = features(split.held_out)
    mean, spread = fitted.mean(axis=0), fitted.std(axis=0, ddof=1)
    np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
    expected = -scipy.stats.norm(mean, spread).logpdf(features(images)).sum(axis=1)
    found = detections(detector, state, KEY, images)
    np.testing.assert_allclose(found.score, expected, rtol=1e-3)
    np.testing.assert_allclose(found.layer_norms, features(images), rtol=1e-4)


def count(flow, params):
    """The number of layers."""
    return jax.eval_shape(lambda gradient: layer_norms(flow, gradient), params).shape[0]


def test_around_a_glow_it_is_one_program_for_cpu_cuda_and_tpu():
    flow, platforms = tiny.glow(), ("cpu", "cuda", "tpu")
    layers = count(flow, parameters(flow)[0])
    state = FisherState(flow, jnp.zeros(layers), jnp.ones(layers))
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *tiny.SHAPE), jnp.uint8)
    score = jax.jit(lambda images: baselines.fisher(flow).score(state, KEY, images))
    exported = jax.export.export(score, platforms=platforms)(images)
    assert exported.platforms == platforms and "callback" not in exported.mlir_module()


def test_steps_of_a_level_are_layers_of_their_own():
    flow = tiny.glow()
    params, _ = parameters(flow)
    flat = jax.tree_util.tree_leaves_with_path(params)
    scanned = [leaf for path, leaf in flat if path[0].key == "level_0"]
    assert scanned and all(len(leaf) == 1 for leaf in scanned)
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, 2 * leaf]), params["level_0"])

    once = count(flow, params)
    assert count(flow, params | {"level_0": twice}) == once + len(scanned)
    plain = Flow(lambda v, k, x: flow.replace(variables=v).log_prob(k, x), flow.variables)
    assert count(plain, params | {"level_0": twice}) == once


@pytest.mark.parametrize("detector", [baselines.fisher, baselines.fisher_combined])
def test_a_flow_of_one_array_has_one_layer_and_one_of_none_is_refused(detector):
    split = tiny.split(60)
    one = Flow(lambda v, key, x: -jnp.sum((x - v) ** 2, axis=(1, 2, 3)), jnp.float32(0.3))
    made = detector(one)
    state = made.fit(jax.random.key(0), split)
    scores = made.score(state, jax.random.key(1), jnp.asarray(split.held_out))
    assert jnp.all(jnp.isfinite(scores)) and len(set(scores.tolist())) > 1
    for variables in ({}, {"params": {}, "fixed": jnp.ones(2)}):
        none = Flow(lambda v, key, x: -jnp.sum(x**2, axis=(1, 2, 3)), variables)
        with pytest.raises(InputError, match="this flow has no parameters, and the detector looks"):
            detector(none).fit(jax.random.key(0), split)


def test_a_layer_that_does_not_vary_is_left_out():
    flow = tiny.gaussian(SCALE)
    constant = Flow(
        lambda v, k, x: tiny.log_prob(v["flow"], k, x) + 3 * v["idle"],
        {"flow": flow.variables, "idle": jnp.float32(1.0)},
    )
    images = tiny.images(4, 1)
    got = []
    for each in (flow, constant):
        detector = baselines.fisher(each)
        got.append(scores(detector, detector.fit(KEY, tiny.split(80)), KEY, images))
    np.testing.assert_allclose(*got, rtol=1e-4)
