import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood.batches import map_images
from ecood.code_length import code_length
from ecood.score import PAPER
from ecood.score.together import detect_together
from tests import small


@pytest.mark.slow
def test_what_states_have_in_common_is_measured_once_and_they_tell_what_they_tell_alone():
    flow, encoder, split = small.gaussian(), small.encoder(), small.split(400)
    key, images = jax.random.key(1), 255 - small.images(9, seed=1)
    state = ecood.score.spem(flow, encoder, noise_strength=0.1, draws=2).fit(key, split)
    states = {"own": state, "paper": state.replace(form=PAPER, noise_strength=jnp.float32(0.3))}
    for by in (ecood.score.constant, ecood.score.shuffled):
        states[by.__name__] = ecood.score.controlled(state, key, split.held_out, 0.1, by=by)
    found = detect_together(states, key, images, map_images(code_length, images=images))
    assert list(found) == list(states)
    for name, each in states.items():
        alone = map_images(ecood.score.detect, each, key, images=images)._asdict()
        for field, values in alone.items():
            np.testing.assert_allclose(getattr(found[name], field), values, rtol=1e-4, atol=1e-4)
