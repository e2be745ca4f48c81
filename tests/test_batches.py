import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import baselines, batches
from ecood.batches import map_images
from tests import small


@pytest.mark.parametrize("n", [1, 7, 64, 100])
def test_any_number_of_images_through_one_trace(n):
    traces = []

    def function(offset, images):
        traces.append(images.shape)
        return {"sum": jnp.sum(images.astype(jnp.float32), axis=(1, 2, 3)) + offset}

    images = small.images(n)
    seen = []
    for count in (n, 1, n):
        out = map_images(function, jnp.float32(1), images=images[:count], progress=seen.append)
        expected = images[:count].sum((1, 2, 3)) + 1.0
        np.testing.assert_allclose(out["sum"], expected, rtol=1e-6)
    assert len(traces) == 1
    assert sum(seen) == 2 * n + 1


def test_one_who_watches_is_told_of_all_that_pass_unless_another_is():
    seen, own = [], []
    with batches.watched(seen.append):
        map_images(jnp.negative, images=np.zeros((70, 2)), progress=own.append)
        for count in (3, 70):
            map_images(lambda x: x.sum(1), images=np.zeros((count, 2)))
    map_images(lambda x: x.sum(1), images=np.zeros((5, 2)))
    assert (seen, own) == ([3, 64, 6], [64, 6])


def test_no_batch_reaches_into_another():
    out = map_images(lambda x: jnp.max(x, axis=(1, 2, 3)), images=small.images(70), batch_size=16)
    np.testing.assert_array_equal(out, small.images(70).max((1, 2, 3)))


@pytest.mark.slow
def test_forgotten_programs_free_their_memory_and_are_compiled_again():
    images = small.images(3)
    traced = []

    def mean(images):
        traced.append(1)
        return images.mean((1, 2, 3))

    first = batches.map_images(mean, images=images)
    np.testing.assert_array_equal(batches.map_images(mean, images=images), first)
    assert len(traced) == 1
    batches.forget_programs()
    np.testing.assert_array_equal(batches.map_images(mean, images=images), first)
    assert len(traced) == 2
    held = weakref.ref(mean)
    del mean
    assert held() is not None  # as long as its program is kept
    batches.forget_programs()
    assert held() is None


def test_batches_are_padded_with_their_last_image_and_any_tree_goes_along():
    images, lengths = small.images(7), np.arange(7)
    found = list(batches.batches((images, lengths), 3))
    assert [n for _, n in found] == [3, 3, 1]
    assert all(a.shape == (3, *small.SHAPE) for (a, _), _ in found)
    np.testing.assert_array_equal(found[2][0][1], [6, 6, 6])
    np.testing.assert_array_equal(found[2][0][0], images[[6, 6, 6]])


def test_equal_functions_share_a_program():
    detectors = [baselines.likelihood(small.gaussian()) for _ in range(2)]
    key, images = jax.random.key(0), small.images(5)
    first = map_images(detectors[0].score, small.gaussian(), key, images=images)
    with small.programs() as made:
        again = map_images(detectors[1].score, small.gaussian(), key, images=images)
    assert made == []
    np.testing.assert_array_equal(first, again)
