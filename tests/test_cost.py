"""What scoring and fitting cost, in counts that are the same on every machine.

They fail if a second compilation, a third pass through the flow or a wait for the host comes back.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import baselines, batches, flows, statistics
from ecood.code_length import code_length
from ecood.score import OF_0_1, PAPER, RECOMMENDED, SPEMState, detect
from tests import small

KEY = jax.random.key(0)
IMAGES = small.images(16)
MEASURES = ("similarity", "aimed", "perturbed_bits", "code_length")


def made(flow, form=RECOMMENDED, draws=1):
    reference = statistics.Reference(jnp.zeros(4), jnp.ones(4))
    bank = statistics.embedded(small.encoder(), small.images(40, seed=1))
    settings = {"draws": statistics.Draws(draws), "form": form}
    return SPEMState(flow, small.encoder(), bank, jnp.float32(0.1), reference, **settings)


@pytest.mark.parametrize(
    ("form", "draws", "rows"),
    [(RECOMMENDED, 1, [32]), (OF_0_1, 1, [32]), (RECOMMENDED, 4, [32, 16]), (PAPER, 1, [16])],
)
def test_image_and_perturbed_image_take_one_pass_and_further_draws_one_each(form, draws, rows):
    """And what they cost is that of two likelihoods, an embedding, a search and the code length."""
    seen = []

    def log_prob(matrix, key, x):
        seen.append(len(x))
        return -jnp.sum((x.reshape(len(x), -1) @ matrix) ** 2, axis=1)

    flow = flows.Flow(log_prob, jnp.full((192, 500), 0.01, jnp.float32))
    state = made(flow, form, draws)
    jax.eval_shape(detect, state, KEY, IMAGES)
    if form != PAPER:  # whose pass for b is there, and dropped where only the score is asked for
        assert seen == rows
    if draws > 1:  # XLA does not count how often a loop runs
        return

    def compiled(function, *arguments):
        return jax.jit(function).lower(*arguments).compile()

    of_score = ecood.score.spem_of_form(form, flow, state.encoder).score
    parts = [
        compiled(baselines.likelihood(flow).score, flow, KEY, IMAGES),
        compiled(statistics.similarity, state.encoder, state.bank, IMAGES),
        compiled(code_length, IMAGES),
    ]
    one_pass, searched, coded = (part.cost_analysis()["flops"] for part in parts)
    whole = compiled(of_score, state, KEY, IMAGES)
    expected = sum(rows) / len(IMAGES) * one_pass + searched + coded * (form != PAPER)
    assert whole.cost_analysis()["flops"] == pytest.approx(expected, rel=0.08)  # the noise
    peaks = [part.memory_analysis().temp_size_in_bytes for part in parts]
    assert whole.memory_analysis().temp_size_in_bytes < 1.5 * max(2 * peaks[0], *peaks[1:])


def test_fitting_at_a_given_lambda_and_scoring_take_the_same_program():
    flow = flows.Flow(lambda v, key, x: -jnp.sum(x**2, axis=(1, 2, 3)), {})  # none has had it
    with small.programs() as compiled:
        fitted = small.encoder(), small.images(100)
        scorer = ecood.score.fit(flow, *fitted, noise_strength=0.1)
    assert compiled.count("jit(detect)") == 1
    assert not {f"jit({name})" for name in MEASURES} & set(compiled)
    with small.programs() as compiled:
        scorer = scorer.calibrate(small.images(20, seed=2))
        again = scorer.with_noise_strength(0.3)
        for images in (small.images(3), small.images(70)):
            for each in (scorer, again):
                np.testing.assert_array_equal(each(images), each.detect(images).score)
    assert compiled == []


def test_fitting_lambda_measures_each_image_once_and_by_few_programs():
    passed = []

    def log_prob(variables, key, x):
        jax.debug.callback(lambda: passed.append(len(x)))
        return -jnp.sum(x**2, axis=(1, 2, 3))

    flow, split = flows.Flow(log_prob, {}), small.split(100)
    with small.programs() as compiled:
        ecood.score.spem(flow, small.encoder()).fit(KEY, split)
        jax.effects_barrier()
    alone = 2  # the first image once more, by itself, with noise and without
    assert len(passed) == 2 * (len(ecood.score.GRID) + 1) + alone  # held-out images, turned ones
    assert compiled.count("jit(perturbed_bits)") == 1 and "jit(detect)" not in compiled
    assert all(compiled.count(f"jit({name})") <= 1 for name in MEASURES)  # others may have had it


def test_a_batch_is_begun_before_the_last_ones_results_are_waited_for(monkeypatch):
    events = []

    class Result:
        def __init__(self, rows):
            self.rows = rows

        def __array__(self, dtype=None, copy=None):
            events.append("read")
            return np.zeros(self.rows)

    def run(images):
        events.append("run")
        return Result(len(images))

    monkeypatch.setattr(batches, "_jitted", lambda function, placement: run)
    assert len(batches.map_images(run, images=small.images(20), batch_size=8)) == 20
    assert events == ["run", "run", "read", "run", "read", "read"]
