import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from ecood import batches
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


def test_no_batch_reaches_into_another():
    out = map_images(lambda x: jnp.max(x, axis=(1, 2, 3)), images=small.images(70), batch_size=16)
    np.testing.assert_array_equal(out, small.images(70).max((1, 2, 3)))


def test_forgotten_programs_free_their_memory_and_are_compiled_again():
    images = small.images(3)
    traced = []

    def mean(images):
        traced.append(1)
        return images.mean((1, 2, 3))

    first = batches.map_images(mean, images=images)
    held = weakref.ref(batches._jitted(mean, None))
    batches.forget_programs()
    assert held() is None
    np.testing.assert_array_equal(batches.map_images(mean, images=images), first)
    assert len(traced) == 2
