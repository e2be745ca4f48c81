"""Every detector keeps the protocol: one table, one line to add a detector."""

import inspect

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import baselines, encoders
from ecood.detector import scores
from ecood.errors import InputError
from tests import small
from tests.baselines import tiny

DETECTORS = {
    "spem": lambda flow, encoder: ecood.score.spem(flow, encoder, noise_strength=0.1),
    "spem_paper": lambda flow, encoder: ecood.score.spem_paper(flow, encoder, noise_strength=0.1),
    "similarity": lambda flow, encoder: ecood.score.similarity(encoder),
    "constant_noise": lambda flow, encoder: ecood.score.constant_noise(flow, encoder, 0.1),
    "shuffled_noise": lambda flow, encoder: ecood.score.shuffled_noise(flow, encoder, 0.1),
    "likelihood": lambda flow, encoder: baselines.likelihood(flow),
    "typicality": lambda flow, encoder: baselines.typicality(flow),
    "input_complexity": lambda flow, encoder: baselines.input_complexity(flow),
    "dose_kde": lambda flow, encoder: baselines.dose_kde(flow),
    "dose_svm": lambda flow, encoder: baselines.dose_svm(flow),
    "gradient_norm": lambda flow, encoder: baselines.gradient_norm(flow),
    "fisher": lambda flow, encoder: baselines.fisher(flow),
    "fisher_combined": lambda flow, encoder: baselines.fisher_combined(flow),
    "intrinsic_dimension": lambda flow, encoder: baselines.intrinsic_dimension(flow),
    "likelihood_ratio": lambda flow, encoder: baselines.likelihood_ratio(flow, tiny.glow(1)),
    "waic": lambda flow, encoder: baselines.waic(flow, tiny.glow(1)),
    "complexity_latent": lambda flow, encoder: baselines.complexity_latent(flow),
    "two_sided": baselines.two_sided,
}
KEY = jax.random.key(1)


@pytest.fixture(scope="module", params=DETECTORS)
def fitted(request):
    detector = DETECTORS[request.param](tiny.glow(), encoders.pixels())
    return detector, detector.fit(jax.random.key(0), tiny.images(80))


def see(detector, images):
    """What `score` takes."""
    return images if detector.prepare is None else (images, detector.prepare(images))


def test_fit_and_score_take_id_images_and_give_finite_scores(fitted):
    detector, state = fitted
    assert list(inspect.signature(detector.fit).parameters) == ["key", "id_images"]
    assert all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(state))
    hard = np.concatenate([tiny.hard_images(), tiny.images(3, seed=5)])
    got = scores(detector, state, KEY, hard)
    assert got.shape == (7,) and got.dtype == np.float32
    small.assert_finite(got)
    assert len(np.unique(got)) > 1


def test_a_score_depends_on_state_key_and_its_own_image_only(fitted):
    detector, state = fitted
    images = np.concatenate([tiny.images(6, seed=4), tiny.hard_images()])
    got = scores(detector, state, KEY, images)
    np.testing.assert_array_equal(got, scores(detector, state, KEY, images))
    elsewhere = np.concatenate([tiny.images(20, seed=6), images[::-1]])
    moved = scores(detector, state, KEY, elsewhere)[:19:-1]
    np.testing.assert_allclose(got, moved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (tiny.images(3) / np.float32(255), "images is float32"),
        (tiny.images(3)[:0], "images is empty"),
        (np.zeros((3, 4, 12, 1), np.uint8), r"cannot score images of shape \[4, 12, 1\]"),
    ],
)
def test_what_are_no_images_of_the_detector_is_refused(images, words):
    detector = ecood.score.likelihood(tiny.glow())
    with pytest.raises(InputError, match=words):
        scores(detector, tiny.glow().variables, KEY, images)


def test_scoring_is_one_program_for_cpu_cuda_and_tpu(fitted):
    detector, state = fitted
    platforms = ("cpu", "cuda", "tpu")
    seen = see(detector, tiny.images(3))
    exported = jax.export.export(jax.jit(detector.score), platforms=platforms)(state, KEY, seen)
    assert exported.platforms == platforms
    assert exported.out_avals[0].shape == (3,) and exported.out_avals[0].dtype == jnp.float32


def test_every_baseline_is_in_the_table():
    assert set(baselines.standard(tiny.glow(), encoders.pixels())) <= set(DETECTORS)
    assert set(baselines.__all__) - {"standard", "group_typicality"} <= set(DETECTORS)
