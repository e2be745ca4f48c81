"""Every detector keeps the protocol: one table, one line to add a detector."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.export
import numpy as np
import pytest

import ecood.score
from ecood import baselines, flows, splits
from ecood.baselines.fisher import _norms as fisher_norms
from ecood.detector import Detector, Scored, detections, scores
from ecood.encoders import Encoder
from ecood.errors import InputError
from ecood.flows import Flow
from ecood.score import (
    RECOMMENDED,
    constant_noise,
    contrast_noise,
    shuffled_noise,
    spem,
    spem_of_form,
    spem_paper,
)
from tests import small
from tests.baselines import tiny

STRENGTH = 0.5  # at which the gain of ID images varies by far more than its rounding

# (flow, another flow of its form, encoder) -> detector.
DETECTORS: dict[str, Callable[[Flow, Flow, Encoder], Detector]] = {
    "spem": lambda f, _, e: spem(f, e, noise_strength=STRENGTH),
    "spem, antithetic": lambda f, _, e: spem(
        f, e, noise_strength=STRENGTH, draws=4, antithetic=True
    ),
    "spem_paper": lambda f, _, e: spem_paper(f, e, noise_strength=STRENGTH),
    "constant_noise": lambda f, _, e: constant_noise(f, e, noise_strength=STRENGTH),
    "shuffled_noise": lambda f, _, e: shuffled_noise(f, e, noise_strength=STRENGTH),
    "contrast_noise": lambda f, _, e: contrast_noise(f, e, noise_strength=STRENGTH),
    "spem, 3 neighbours": lambda f, _, e: spem_of_form(
        RECOMMENDED, f, e, noise_strength=STRENGTH, neighbours=3
    ),
    "likelihood": lambda f, _, e: baselines.likelihood(f),
    "similarity": lambda f, _, e: baselines.similarity(e),
    "similarity_10": lambda f, _, e: baselines.similarity(e, neighbours=10),
    "embedding_gaussian": lambda f, _, e: baselines.embedding_gaussian(e),
    "embedding_flow": lambda f, _, e: baselines.embedding_flow(e, steps=25),
    "typicality": lambda f, _, e: baselines.typicality(f),
    "input_complexity": lambda f, _, e: baselines.input_complexity(f),
    "universal_complexity": lambda f, _, e: baselines.universal_complexity(f),
    "dose_kde": lambda f, _, e: baselines.dose_kde(f),
    "dose_svm": lambda f, _, e: baselines.dose_svm(f),
    "gradient_norm": lambda f, _, e: baselines.gradient_norm(f),
    "fisher": lambda f, _, e: baselines.fisher(f),
    "fisher_combined": lambda f, _, e: baselines.fisher_combined(f),
    "intrinsic_dimension": lambda f, _, e: baselines.intrinsic_dimension(f),
    "intrinsic_dimension, model-free": lambda f, _, e: baselines.intrinsic_dimension(
        f, model_free=True
    ),
    "likelihood_ratio": lambda f, other, e: baselines.likelihood_ratio(f, other),
    "general_ratio": lambda f, other, e: baselines.general_ratio(f, other),
    "general_ratio, last level": lambda f, other, e: baselines.general_ratio(
        f, other, last_level=True
    ),
    "last_level": lambda f, _, e: baselines.last_level(f),
    "waic": lambda f, other, e: baselines.waic(f, other),
    "complexity_latent": lambda f, _, e: baselines.complexity_latent(f),
    "two_sided": lambda f, _, e: baselines.two_sided(f, e),
}
# Each asks a flow for something else; tests/baselines/test_fisher.py does for parameters.
AROUND_A_GLOW = ("spem", "last_level", "dose_kde", "gradient_norm", "intrinsic_dimension")
NEEDS = {
    "dose_kde": "forward_and_log_det",
    "dose_svm": "forward_and_log_det",
    "complexity_latent": "forward_and_log_det",
    "intrinsic_dimension": "forward_and_log_det",
    "intrinsic_dimension, model-free": "forward_and_log_det",
    "last_level": "log_prob_of_levels",
    "general_ratio, last level": "log_prob_of_levels",
}  # a method of the density beside log_prob
DENSITIES = (
    flows.Glow(tiny.SHAPE, depth=1, levels=1, width=4),
    flows.ResidualFlow(tiny.SHAPE, depth=1, levels=1, width=4),
    flows.TarFlow(tiny.SHAPE, depth=1, width=4),
    flows.Jet(tiny.SHAPE, depth=1, width=4),
    flows.PixelCNN(tiny.SHAPE, depth=1, levels=1, width=4, mixtures=2),
)
LONG = flows.ResidualFlow, flows.TarFlow, flows.Jet  # to compile
NOISELESS = ("similarity", "similarity_10", "embedding_gaussian", "embedding_flow")
PLATFORMS = ("cpu", "cuda", "tpu")

KEY = jax.random.key(1)
SCALE = np.linspace(0.2, 0.5, tiny.D)


class Fitted(NamedTuple):
    """A fitted detector whose `detect` notes the shapes for which it is traced."""

    name: str
    detector: Detector
    state: Any
    traced: list[tuple[int, ...]]

    def score(self, images, key=KEY, state=None, **options):
        return scores(self.detector, self.state if state is None else state, key, images, **options)

    def detect(self, images):
        return detections(self.detector, self.state, KEY, images)


def fit(name: str, flow: Flow, other: Flow) -> Fitted:
    detector = DETECTORS[name](flow, other, small.encoder(channels=1))
    traced: list[tuple[int, ...]] = []

    def detect(state, key, given):
        traced.append(jax.tree.leaves(given)[0].shape)
        return detector.detect(state, key, given)

    state = detector.fit(jax.random.key(0), tiny.split(400))
    return Fitted(name, detector._replace(detect=detect), state, traced)


@pytest.fixture(scope="module", params=DETECTORS)
def fitted(request):
    return fit(request.param, tiny.curved(SCALE), tiny.curved(0.3, 0.4))


@pytest.fixture
def fitted_alike():
    return lambda name: fit(name, tiny.curved(SCALE), tiny.curved(0.3, 0.4))


def given(detector: Detector, images: np.ndarray) -> Any:
    """What `detect` takes."""
    return images if detector.prepare is None else (images, detector.prepare(images))


def export(fitted: Fitted) -> jax.export.Exported:
    """A program of the leaves of the state and what `detect` takes."""
    leaves, tree = jax.tree.flatten(fitted.state)
    some = given(fitted.detector, tiny.images(2))
    (batch,) = jax.export.symbolic_shape("b")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), some)

    def score(leaves, given):
        return fitted.detector.score(jax.tree.unflatten(tree, leaves), KEY, given)

    return jax.export.export(jax.jit(score), platforms=PLATFORMS)(leaves, shapes)


def models(tree: Any) -> list[Flow | Encoder]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Flow | Encoder))
    return [leaf for leaf in leaves if isinstance(leaf, Flow | Encoder)]


def replaced(tree: Any, index: int, by: Flow | Encoder) -> Any:
    """The tree with its index-th model replaced."""
    count = iter(range(len(models(tree))))

    def swap(leaf):
        is_model = isinstance(leaf, Flow | Encoder)
        return by if is_model and next(count) == index else leaf

    return jax.tree.map(swap, tree, is_leaf=lambda x: isinstance(x, Flow | Encoder))


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_fitted_to_images_that_a_model_was_trained_on_is_refused(name):
    """All but those whose `fit` looks at no image."""
    split = tiny.split(400)
    knows = splits.remember(split.held_out[:1])
    flow, other = (f.replace(trained_on=knows) for f in (tiny.curved(SCALE), tiny.curved(0.3)))
    encoder = small.encoder(channels=1).replace(trained_on=knows)
    detector = DETECTORS[name](flow, other, encoder)
    try:
        detector.fit(KEY, None)
    except InputError:
        with pytest.raises(InputError, match="1 of .* images was used to train the (flow|encoder)"):
            detector.fit(KEY, split)


def test_fit_takes_a_key_and_a_split_and_gives_a_pytree_of_arrays(fitted):
    assert list(inspect.signature(fitted.detector.fit).parameters) == ["key", "split"]
    leaves = jax.tree.leaves(fitted.state)
    assert all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)
    assert len({id(leaf) for leaf in leaves}) == len(leaves)  # nothing is held twice


def test_a_detection_is_a_named_tuple_of_a_row_for_each_image(fitted):
    images = np.concatenate([tiny.hard_images(), tiny.images(3, seed=5)])
    found = fitted.detect(images)
    assert isinstance(found, tuple) and "score" in found._fields
    assert found.score.shape == (7,) and found.score.dtype == np.float32
    for field in found:
        assert field.shape[0] == 7 and field.dtype == np.float32
        small.assert_finite(field)
    assert len(np.unique(found.score)) > 1
    np.testing.assert_allclose(fitted.score(images), found.score, rtol=1e-5, atol=1e-5)


def test_a_score_depends_on_the_key_and_its_own_image_alone(fitted):
    images = np.concatenate([tiny.images(6, seed=4), tiny.hard_images()])
    first = fitted.score(images)
    np.testing.assert_array_equal(first, fitted.score(images))
    elsewhere = np.concatenate([tiny.images(20, seed=6), images[::-1]])
    moved = fitted.score(elsewhere)[:19:-1]
    np.testing.assert_allclose(first, moved, rtol=1e-5, atol=1e-5)
    other = fitted.score(images, key=jax.random.key(2))
    assert np.array_equal(first, other) == (fitted.name in NOISELESS)


def test_one_trace_for_any_number_of_images_and_any_model_of_the_same_form(fitted):
    images = tiny.images(9, seed=2)
    first = fitted.score(images)
    traced = len(fitted.traced)
    for count in (64, 1, 7, 100):
        found = fitted.score(tiny.images(count, seed=2), key=jax.random.key(count))
        assert found.shape == (count,)
    for index, model in enumerate(models(fitted.state)):
        other = tiny.curved(0.4, 0.5)
        if isinstance(model, Encoder):
            other = small.encoder(seed=7, channels=1)
        state = replaced(fitted.state, index, other)
        assert np.abs(fitted.score(images, state=state) - first).max() > 1e-3  # its only copy
    assert len(fitted.traced) == traced


SEARCHING = ("similarity_10", "embedding_gaussian")  # fitted fast; the others take minutes


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in SEARCHING)) for n in DETECTORS]
)
def test_under_x64_the_scores_are_the_same(name, fitted_alike):
    images = tiny.images(5, seed=4)
    expected = fitted_alike(name).score(images)
    with jax.enable_x64(True):
        found = fitted_alike(name).score(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_every_model_that_scores_is_in_the_state(fitted):
    kinds = {type(model) for model in models(fitted.state)}
    assert kinds and kinds <= {Flow, Encoder}


@pytest.mark.slow
def test_compiling_changes_nothing_but_rounding(fitted):
    detector, images = fitted.detector, tiny.images(5, seed=3)
    plain = detector.detect(fitted.state, KEY, given(detector, images))
    compiled = fitted.detect(images)
    for ours, theirs in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_one_program_for_cpu_cuda_and_tpu_for_any_number_of_images(fitted):
    images = tiny.images(5, seed=6)
    some, exported = given(fitted.detector, images), export(fitted)
    assert exported.platforms == PLATFORMS
    for word in ("callback", "infeed", "outfeed"):
        assert word not in exported.mlir_module()
    again = jax.export.deserialize(exported.serialize())
    found = again.call(jax.tree.leaves(fitted.state), some)
    np.testing.assert_allclose(found, fitted.score(images), rtol=1e-4, atol=1e-4)


def test_one_program_around_a_glow_too(fitted):
    if fitted.name not in AROUND_A_GLOW:
        pytest.skip("asks nothing else of a flow than those that are tried")
    exported = export(fitted._replace(state=replaced(fitted.state, 0, tiny.glow())))
    assert exported.platforms == PLATFORMS
    assert "callback" not in exported.mlir_module()


def zeros(module: nn.Module) -> Flow:
    """A flow whose parameters are zeros, for what is traced and not computed."""
    shape = jax.ShapeDtypeStruct((1, *tiny.SHAPE), np.float32)
    variables = jax.eval_shape(module.init, KEY, shape)
    return flows.bind(
        module, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    )


@pytest.mark.parametrize(
    "density",
    [
        pytest.param(
            each, marks=[pytest.mark.slow] * isinstance(each, LONG), id=type(each).__name__
        )
        for each in DENSITIES
    ],
)
def test_it_runs_on_every_density_or_says_in_one_sentence_what_it_needs(fitted, density):
    flow, state = zeros(density), fitted.state
    for index, model in enumerate(models(state)):
        state = replaced(state, index, flow) if isinstance(model, Flow) else state
    if fitted.name.startswith("fisher"):  # its state has a row a layer: what it is made from

        def run(images):
            return Scored(fisher_norms(flow, KEY, images)[:, 0])
    else:

        def run(images):
            return fitted.detector.detect(state, KEY, images)

    images = given(fitted.detector, tiny.images(2))
    method = NEEDS.get(fitted.name)
    if method and not hasattr(density, method):
        with pytest.raises(InputError) as refused:
            jax.eval_shape(run, images)
        sentence = str(refused.value)
        assert "\n" not in sentence and "choose a detector that needs log_prob only" in sentence
    else:
        assert jax.eval_shape(run, images).score.shape == (2,)


def test_the_compiled_path_never_goes_back_to_the_host():
    spem = fit("spem", tiny.curved(SCALE), tiny.curved())
    lowered = jax.jit(spem.detector.detect).lower(spem.state, KEY, tiny.images(64))
    for word in ("callback", "infeed", "outfeed"):
        assert word not in lowered.compile().as_text()


def test_every_detector_is_in_the_table():
    assert set(baselines.standard(tiny.glow(), small.encoder())) <= set(DETECTORS)
    assert set(baselines.__all__) - {"standard", "group_typicality"} <= set(DETECTORS)
    made = [name for name, thing in vars(ecood.score).items() if returns_a_detector(thing)]
    assert (
        {"spem", "spem_paper", "likelihood", "constant_noise"}
        <= set(made)
        <= {*DETECTORS, "spem_of_form"}
    )


def returns_a_detector(thing: Any) -> bool:
    return inspect.isfunction(thing) and inspect.signature(thing).return_annotation is Detector


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (tiny.images(3) / np.float32(255), "images is float32"),
        (tiny.images(3)[:0], "images is empty"),
        (np.zeros((3, 4, 12, 1), np.uint8), r"the images have shape \[4, 12, 1\]"),
    ],
)
def test_what_are_no_images_of_the_detector_is_refused(images, words):
    for run in (scores, detections):
        with pytest.raises(InputError, match=words) as caught:
            run(baselines.likelihood(tiny.glow()), tiny.glow(), KEY, images)
        assert "\n" not in str(caught.value)


def test_what_is_no_key_is_refused():
    detector = baselines.likelihood(tiny.gaussian())
    for key in (0, jax.random.PRNGKey(0), jax.random.split(KEY)):
        with pytest.raises(InputError, match=r"expected one key, made by jax.random.key\(seed\)"):
            scores(detector, tiny.gaussian(), key, tiny.images(3))


def test_the_score_of_one_detect_function_is_one_function():
    one, other = (baselines.likelihood(tiny.gaussian(scale)) for scale in (0.2, 0.3))
    assert one.score == other.score and hash(one.score) == hash(other.score)
    assert one.score != baselines.similarity(small.encoder()).score


def test_progress_adds_up_to_the_images():
    seen = []
    detector = baselines.likelihood(tiny.gaussian())
    scores(detector, tiny.gaussian(), KEY, tiny.images(70), progress=seen.append, batch_size=32)
    assert sum(seen) == 70
