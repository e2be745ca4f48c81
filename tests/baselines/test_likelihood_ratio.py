import jax
import numpy as np
import pytest

from ecood import baselines, flows
from ecood.baselines.background import MUTATION_RATES, mutate, train_background
from ecood.detector import scores
from ecood.errors import InputError
from ecood.images import hold_out
from ecood.metrics import auroc
from ecood.train import TrainConfig
from experiments import train_flow
from tests.baselines import tiny

KEY = jax.random.key(8)


def test_difference_of_two_known_densities():
    images = np.concatenate([tiny.images(5), tiny.hard_images()])
    detector = baselines.likelihood_ratio(tiny.gaussian(0.3), tiny.gaussian(0.5, mean=0.2))
    state = detector.fit(KEY, tiny.images(80))
    cost = tiny.known_statistics(KEY, images)[:, 0]
    background = tiny.known_statistics(KEY, images, 0.5, 0.2)[:, 0]
    np.testing.assert_allclose(scores(detector, state, KEY, images), cost - background, atol=5e-5)


def test_the_background_is_chosen_on_id_images_and_their_turned_copies():
    rows = np.linspace(0.2, 0.6, 8).repeat(8)  # a scale for each row: not the same when turned
    columns = rows.reshape(8, 8).T.ravel()
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1200, *tiny.SHAPE)) * rows.reshape(tiny.SHAPE)
    id_images = np.clip(115 + 80 * noise, 0, 255).astype(np.uint8)
    candidates = [tiny.gaussian(0.3), tiny.gaussian(columns), tiny.gaussian(0.35)]
    detector = baselines.likelihood_ratio(tiny.gaussian(rows), *candidates)
    chosen = detector.fit(KEY, id_images).background["scale"]
    held_out = hold_out(id_images)[1]
    turned = np.rot90(held_out, axes=(1, 2))
    separations = []
    for scale in (0.3, columns, 0.35):
        ratio = [
            tiny.known_statistics(KEY, x, rows)[:, 0] - tiny.known_statistics(KEY, x, scale)[:, 0]
            for x in (held_out, turned)
        ]
        separations.append(auroc(*ratio))
    assert int(np.argmax(separations)) == 1
    np.testing.assert_allclose(chosen, columns, rtol=1e-6)


def test_mutation_replaces_the_share_asked_for_by_uniform_values():
    images = np.full((40, 16, 16, 3), 7, np.uint8)
    mutated = mutate(KEY, images, 0.3)
    changed = mutated[mutated != images]
    assert mutated.dtype == np.uint8 and mutated.shape == images.shape
    assert abs(changed.size / images.size - 0.3 * 255 / 256) < 0.01
    assert abs(changed.mean() - 127.5) < 3 and changed.min() == 0 and changed.max() == 255
    for rate in (0.0, 1.0):
        with pytest.raises(InputError, match="mutation rate"):
            mutate(KEY, images, rate)


@pytest.mark.slow
def test_a_trained_background_flow_knows_less_of_the_images():
    module = flows.Glow(tiny.SHAPE, depth=1, levels=1, width=4)
    config = TrainConfig(steps=25, batch_size=16, warmup=5, eval_every=25)
    background = train_background(module, tiny.images(80), MUTATION_RATES[-1], config)
    state = baselines.likelihood_ratio(background, background).fit(KEY, tiny.images(80))
    assert state.background is background.variables
    ratio = baselines.likelihood_ratio(tiny.gaussian(), background)
    assert scores(ratio, ratio.fit(KEY, tiny.images(80)), KEY, tiny.images(3)).shape == (3,)


def test_backgrounds_of_different_architectures_are_refused():
    with pytest.raises(InputError, match="0 background flows"):
        baselines.likelihood_ratio(tiny.gaussian())
    other = tiny.gaussian()._replace(variables={"mean": np.zeros(3)})
    with pytest.raises(InputError, match="2 background flows"):
        baselines.likelihood_ratio(tiny.gaussian(), tiny.gaussian(), other)


def test_the_training_command_mutates_what_it_trains_on_and_nothing_else(monkeypatch, tmp_path):
    seen = {}

    def train(module, images, *_):
        seen["trained"] = images
        raise KeyboardInterrupt

    monkeypatch.setattr(train_flow, "train", train)
    words = ["--data", "embedded", "--name", "fashion_mnist", "--limit", "40", "--steps", "1"]
    for more in ([], ["--mutate", "0.25", "--seed", "3"]):
        with pytest.raises(KeyboardInterrupt):
            train_flow.run(train_flow.build_parser().parse_args([*words, *more]))
        seen[bool(more)] = seen["trained"]
    np.testing.assert_array_equal(seen[True], mutate(jax.random.key(3), seen[False], 0.25))
