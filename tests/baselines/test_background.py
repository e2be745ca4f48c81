import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecood import flows, splits
from ecood.baselines import background
from ecood.errors import InputError
from ecood.train import Fit, TrainConfig, flow_task
from tests import small
from tests.baselines import tiny


def test_mutation_replaces_the_share_asked_for_by_uniform_values():
    images = np.full((40, 16, 16, 3), 7, np.uint8)
    mutated = background.mutate(jax.random.key(8), images, 0.3)
    changed = mutated[mutated != images]
    assert mutated.dtype == np.uint8 and mutated.shape == images.shape
    assert abs(changed.size / images.size - 0.3 * 255 / 256) < 0.01
    assert abs(changed.mean() - 127.5) < 3 and changed.min() == 0 and changed.max() == 255
    for rate in (0.0, 1.0, "0.1"):
        with pytest.raises(InputError, match="mutation rate"):
            background.mutate(jax.random.key(8), images, rate)


def test_the_mutation_of_an_image_is_drawn_anew_each_time_and_fixed_where_it_is_held_out():
    module = flows.Glow((8, 8, 1), depth=1, levels=1, width=4)
    plain, task = flow_task(module), background.background_task(module, 0.3)
    loss, evaluate, plain_loss, plain_cost = map(
        jax.jit, (task.loss, task.evaluate, plain.loss, plain.evaluate)
    )
    images, variables = jnp.asarray(tiny.images(6)), tiny.glow().variables
    keys = jax.random.split(jax.random.key(2))

    def expected(key):
        mutation, rest = jax.random.split(key)
        return plain_loss(variables, rest, background.mutate(mutation, images, 0.3))[0]

    losses = [loss(variables, key, images)[0] for key in keys]
    np.testing.assert_allclose(losses, [expected(key) for key in keys], rtol=1e-6)
    costs = evaluate(variables, keys[0], images)
    moved = evaluate(variables, keys[0], images[::-1])[::-1]
    np.testing.assert_allclose(costs, moved, rtol=1e-5)
    assert np.abs(costs - plain_cost(variables, keys[0], images)).min() > 0.01
    assert np.abs(losses[0] - losses[1]) > 0.01
    assert task.name != background.background_task(module, 0.2).name != plain.name


def test_weight_decay_counts_the_kernels_alone():
    module = flows.Glow((8, 8, 1), depth=1, levels=1, width=4)
    images, variables = jnp.asarray(tiny.images(6)), tiny.glow().variables
    without, with_ = (
        jax.jit(background.background_task(module, 0.3, decay).loss)(
            variables, jax.random.key(0), images
        )
        for decay in (0.0, 0.5)
    )
    coupling = variables["params"]["level_0"]["coupling"]
    kernels = [np.float64(layer["kernel"]) for layer in coupling.values()]
    assert len(kernels) == 3
    squares = sum(np.sum(kernel**2) for kernel in kernels)
    np.testing.assert_allclose(with_[0] - without[0], 0.5 * squares, rtol=1e-3)
    with pytest.raises(InputError, match="weight_decay is -1; expected 0 or a positive number"):
        background.train_background(
            module, tiny.split(100), 0.2, TrainConfig(steps=25), weight_decay=-1
        )


def test_a_background_flow_is_trained_on_the_split_and_remembers_it(monkeypatch):
    seen = []

    def fit(task, train, held_out, config, directory, **options):
        seen.append((task, train, held_out, directory, options))
        return Fit({}, 1.0, 25, [])

    monkeypatch.setattr(background, "fit", fit)
    split, module = splits.draw(small.images(100)), flows.Glow((8, 8, 3), levels=1)
    config = TrainConfig(steps=25, seed=3)
    flow, fitted = background.train_background(
        module, split, 0.2, config, "folder", flip=True, weight_decay=1e-5, devices=None
    )
    ((task, train, held_out, *rest),) = seen
    assert task is background.background_task(module, 0.2, 1e-5, flip=True)
    assert rest == ["folder", {"devices": None}] and fitted.steps == 25
    np.testing.assert_array_equal(train, split.train)
    np.testing.assert_array_equal(held_out, split.held_out)
    assert [splits.count_known(part, flow.trained_on) for part in split] == [85, 0, 0]


def test_a_module_of_lists_is_refused_as_by_training_itself():
    with pytest.raises(InputError, match="Glow cannot be trained; expected a linen module with"):
        background.background_task(flows.Glow([8, 8, 1], 1, 1, 4), 0.1)


def test_parts_that_share_images_are_refused():
    split = splits.draw(small.images(100))
    shared = split._replace(held_out=split.train[:5])
    with pytest.raises(InputError, match="held_out part shares 5 images of 5 with the train part"):
        background.train_background(None, shared, 0.2, TrainConfig(steps=25))
