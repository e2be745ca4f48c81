"""An explanation adds up: its terms to the score, its maps to the bits of an image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import flows
from ecood.errors import InputError
from ecood.score import FORMS, explain
from ecood.score.spem import SPEMState
from ecood.statistics import Draws, Reference, guard
from tests import small

IMAGES = np.concatenate([small.images(6, seed=1), 255 - small.images(3, seed=4)])


def make(form="floored", flow=None, draws=1):
    """A scorer of one form, without the search for a noise strength."""
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(40, small.encoder().embed(IMAGES[:1]).shape[1]))
    bank = jnp.float32(bank / np.linalg.norm(bank, axis=1, keepdims=True))
    count = 4 if form == "floored" else 3
    reference = Reference(
        jnp.float32([4.0, 0.5, -0.5, 1.0][:count]), jnp.float32([0.5, 0.2, 0.1, 0.3][:count])
    )
    state = SPEMState(
        flow or small.flow(), small.encoder(), bank, jnp.float32(0.3), reference,
        Draws(draws), FORMS[form],
    )  # fmt: skip
    return ecood.score.Scorer(state, small.SHAPE)


@pytest.fixture(scope="module")
def scorer():
    return make()


@pytest.fixture(scope="module")
def explanation(scorer):
    return scorer.explain(IMAGES, neighbours=3)


@pytest.mark.parametrize("form", FORMS)
def test_the_terms_add_up_to_the_score(form):
    scorer = make(form, small.gaussian())
    found = scorer.explain(IMAGES)
    assert set(found.terms) <= set(explain.TERMS)
    np.testing.assert_allclose(sum(found.terms.values()), scorer(IMAGES), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.detection.score, scorer.detect(IMAGES).score)


@pytest.mark.parametrize("form", ecood.score.ABLATIONS)
def test_so_do_those_of_an_ablation(form):
    scorer = make(flow=small.gaussian())
    state = scorer.state.replace(form=ecood.score.ABLATIONS[form])
    other = dataclasses.replace(scorer, state=state)
    found = other.explain(IMAGES)
    assert set(found.terms) <= set(explain.TERMS)
    np.testing.assert_allclose(sum(found.terms.values()), other(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("draws", [1, 2])
def test_the_maps_have_the_means_that_are_scored(draws):
    scorer = make(draws=draws)
    found = scorer.explain(IMAGES)
    assert found.bits_map.shape == found.code_map.shape == (len(IMAGES), 8, 8)
    bits = guard(found.bits_map.mean((1, 2)))
    np.testing.assert_allclose(bits, found.detection.bits, rtol=2e-5)
    np.testing.assert_allclose(found.code_map.mean((1, 2)), found.detection.code_length, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        flows.TarFlow(small.SHAPE, 1, width=8),
        flows.Jet(small.SHAPE, 1, width=8),
        flows.PixelCNN(small.SHAPE, 1, 2, 4),
    ],
)
def test_densities_of_single_pixels_have_maps_too(module):
    x = jnp.float32(IMAGES) / 256
    found = make(flow=flows.bind(module, jax.jit(module.init)(jax.random.key(0), x))).explain(
        IMAGES
    )
    bits = guard(found.bits_map.mean((1, 2)))
    np.testing.assert_allclose(bits, found.detection.bits, rtol=1e-4)


def test_a_flow_whose_density_has_no_places_has_no_map():
    assert make(flow=small.gaussian()).explain(IMAGES).bits_map is None


def test_the_nearest_are_those_of_the_bank(scorer, explanation):
    embeddings = np.asarray(scorer.encoder.embed(IMAGES))
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    products = embeddings @ np.asarray(scorer.state.bank).T
    np.testing.assert_array_equal(explanation.neighbours, np.argsort(-products)[:, :3])
    np.testing.assert_allclose(
        explanation.neighbour_similarity, -np.sort(-products)[:, :3], atol=1e-5
    )
    np.testing.assert_allclose(
        explanation.neighbour_similarity[:, 0], explanation.detection.similarity, atol=1e-6
    )


@pytest.mark.parametrize("wrong", [41, -1, 1.5, True, None])
def test_a_number_of_neighbours_that_is_none_is_refused_before_anything_is_traced(scorer, wrong):
    words = f"neighbours is {wrong}; expected a whole number from 0 to 40, the rows of the bank"
    with small.programs() as made, pytest.raises(InputError, match=words):
        scorer.explain(IMAGES, neighbours=wrong)
    assert made == []


def test_no_neighbours_can_be_asked_for():
    scorer = make(flow=small.gaussian())
    found, known = scorer.explain(IMAGES, neighbours=0), scorer.explain(IMAGES, neighbours=1)
    assert found.neighbours.shape == found.neighbour_similarity.shape == (len(IMAGES), 0)
    np.testing.assert_allclose(found.detection.score, known.detection.score, rtol=1e-6)
    similarity = f"imilarity {found.detection.similarity[0]:.2f} to the memory bank."
    assert found.sentences()[0].endswith(similarity)


@pytest.mark.parametrize(
    ("z", "words"),
    [
        ((0, 0.1, 0, 0), "Like in-distribution images in all that is measured; the nearest is"),
        ((-2, 0, 9, 0), "Unlike every image of the bank; simpler than in-distribution images; the"),
        ((-1, 2, 3, 0), "Unlike every image of the bank; smooth, so that noise costs it much; sim"),
        ((3, 0, 0, 9), "Costs the flow more than its own complexity explains (4.0 against 3.0 bi"),
        ((3, 0, 0, 0), "Richer than in-distribution images (4.0 bits/dim); the nearest is image 7"),
        ((0, 0, 0), "5.0 bits/dim with noise; the nearest is image 7 (similarity 0.50)."),
    ],
)
def test_words_name_what_stands_out(explanation, z, words):
    one = explanation._replace(
        detection=ecood.score.Detection(*(np.float32([v]) for v in (1, 0.5, 0.1, 5, 4, 3))),
        standardised=np.float32([z]),
        neighbours=np.int32([[7, 8]]),
        neighbour_similarity=np.float32([[0.5, 0.4]]),
    )
    (sentence,) = one.sentences()
    assert sentence.startswith(words)
    assert sentence.endswith("the nearest is image 7 (similarity 0.50).")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("broken", "words"),
    [("bits", "The flow gives NaN or infinity for this image."),
     ("perturbed_bits", "The flow gives NaN or infinity for this image with noise."),
     ("similarity", "The encoder gives NaN or infinity for this image.")],
)  # fmt: skip
def test_a_model_that_breaks_is_named_and_nothing_made_of_it(explanation, broken, value, words):
    bits = float(guard(jnp.float32(value))) if "bits" in broken else value
    found = explanation._replace(
        detection=explanation.detection._replace(**{broken: np.full(len(IMAGES), bits, np.float32)})
    )
    assert set(found.sentences()) == {words}


def test_the_nearest_image_has_its_own_similarity_not_the_mean_to_several():
    scorer = make(flow=small.gaussian())
    several = dataclasses.replace(scorer, state=scorer.state.replace(neighbours=5))
    one, many = scorer.explain(IMAGES), several.explain(IMAGES)
    assert np.all(many.detection.similarity < one.detection.similarity)
    assert [told.split("the nearest is")[1] for told in many.sentences()] == [
        told.split("the nearest is")[1] for told in one.sentences()
    ]


def test_one_program_explains_any_number_of_images(scorer, explanation):
    with small.programs() as made:
        again = scorer.explain(IMAGES[:2], neighbours=3)
    assert made == []
    np.testing.assert_allclose(again.code_map, explanation.code_map[:2], rtol=1e-6)
